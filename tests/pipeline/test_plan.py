"""Everything that a study names wrongly is told before anything is trained or written."""

import os

import pytest

import ttq_energy as te
from ttq_energy.errors import InputError
from ttq_energy.pipeline.plan import make_plan
from ttq_energy.study import study_from_dict

RESNET = {
    "name": "resnet20",
    "options": {"in_channels": 1, "image_size": 8},
    "dataset": "digits",
}


def study(**changes):
    return study_from_dict({"name": "s", "models": [RESNET], "variants": ["ttq"], **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"variants": [{"name": "ttq", "skip": ["conv2"]}]},
            "models: 'resnet20': variant 'ttq': skip: unknown layer 'conv2'; did you mean 'conv1'?",
        ),
        (
            {"training": {"parameter_groups": [{"layers": "zzz*"}]}},
            "models: 'resnet20': training.parameter_groups: unknown layers 'zzz*'",
        ),
        ({"country": "XXX"}, "country: 'XXX' is not an ISO 3166 code of three letters"),
        ({"measurement": {"device": "cpu:9"}}, "unknown device 'cpu:9'; valid: cpu, cuda, cuda:N"),
        ({"measurement": {"device": "cuda:x"}}, "unknown device 'cuda:x'"),
        (
            {"models": [{**RESNET, "label": "a/b"}, {**RESNET, "label": "A_b"}]},
            "'a/b' as 'fp32' and 'A_b' as 'fp32' would share one file of weights",
        ),
        (
            {"models": [{**RESNET, "checkpoint": "~/no/such.safetensors"}]},
            f"{os.path.expanduser('~')}/no/such.safetensors: no such checkpoint",
        ),
    ],
)
def test_what_is_told_at_once(changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        te.profile(study(**changes), out="run")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_layers_named_rightly_pass():
    plan = make_plan(
        study(
            variants=[{"name": "ttq", "skip": ["conv1"]}],
            training={"parameter_groups": [{"layers": "conv1", "weight_decay": 0.0}]},
        )
    )
    assert plan.subjects[0].parameters == 269_434
