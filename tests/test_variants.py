"""Variants resolve to what is trained and what runs it."""

import pytest

from ttq_energy.errors import InputError
from ttq_energy.study import VariantSpec
from ttq_energy.variants import BUILT_IN, resolve


def names(*specs):
    return [v.name for v in resolve(tuple(specs))]


def test_the_names_that_users_rely_on():
    wanted = "fp32 bf16 int8 ttq ttq-int8 ttq-fixed ttq-symmetric twn bwn dorefa"
    assert set(BUILT_IN) == set(wanted.split())


def test_the_baseline_is_always_there_and_first():
    assert names(VariantSpec("ttq")) == ["fp32", "ttq"]
    assert names(VariantSpec("twn"), VariantSpec("fp32")) == ["fp32", "twn"]


def test_a_variant_brings_the_one_whose_weights_it_runs():
    assert names(VariantSpec("ttq-int8")) == ["fp32", "ttq-int8", "ttq"]


def test_own_quantizer_settings():
    (_, own) = resolve((VariantSpec("mine", quantizer={"type": "TTQ", "threshold": 0.1}),))
    assert own.trained
    assert own.execution == "packed-fp32"
    assert own.meaning == "TTQ(threshold=0.1)"


def test_the_same_weights_with_other_activations():
    specs = (
        VariantSpec("mine", quantizer={"type": "TTQ", "threshold": 0.1}),
        VariantSpec("mine-int8", of="mine", activations="int8"),
    )
    by_name = {v.name: v for v in resolve(specs)}
    assert by_name["mine-int8"].execution == "packed-int8"
    assert by_name["mine-int8"].quantizer == {"type": "TTQ", "threshold": 0.1}
    assert not by_name["mine-int8"].trained


def test_unknown_names_tell_the_nearest():
    with pytest.raises(InputError, match="unknown variant 'tttq'; did you mean 'ttq'"):
        resolve((VariantSpec("tttq"),))
    with pytest.raises(InputError, match="did you mean 'ttq'"):
        resolve((VariantSpec("x", of="tqq"),))
    with pytest.raises(InputError, match="valid: bwn, dorefa"):
        resolve((VariantSpec("x", of="int8"),))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            VariantSpec("fp32", quantizer={"type": "TTQ"}),
            "'fp32': is built in .* takes no quantizer",
        ),
        (VariantSpec("fp32", of="ttq"), "'fp32': is built in and runs fp32's weights"),
        (VariantSpec("bf16", activations="int8"), "'bf16': is built in .* takes no activations"),
        (VariantSpec("twn", quantizer={"type": "TTQ"}), "built in with the quantizer TWN"),
        (VariantSpec("ttq-int8", activations="fp32"), "built in with activations int8"),
        (VariantSpec("ttq-int8", of="twn"), "built in with activations int8"),
        (VariantSpec("ttq-int8", skip=("a",)), "runs the weights of 'ttq', so skip goes there"),
        (VariantSpec("mine", of="ttq", start="scratch"), "so start goes there"),
        (VariantSpec("mine", of="ttq", quantizer={"type": "TWN"}), "so quantizer goes there"),
    ],
)
def test_a_built_in_name_means_what_reports_say_and_no_setting_is_passed_over(spec, message):
    with pytest.raises(InputError, match=message):
        resolve((spec,))


def test_built_in_names_may_be_set_in_what_they_leave_open():
    found = resolve(
        (
            VariantSpec("ttq", quantizer={"type": "TTQ", "threshold": 0.1}, skip=()),
            VariantSpec("ttq-int8", of="ttq", activations="int8"),
        )
    )
    assert {v.name: v.execution for v in found}["ttq-int8"] == "packed-int8"
