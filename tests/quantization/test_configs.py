"""Configurations are checked when made, and go to JSON and back."""

import json

import pytest

import ttq_energy as te
from ttq_energy.errors import InputError
from ttq_energy.quantization import config_from_dict, config_to_dict

CONFIGS = [
    te.TTQ(),
    te.TTQ(threshold=0.1, learn_scales=False, per="channel", initial_scales="one"),
    te.TTQ(sparsity=0.5, symmetric=True),
    te.TWN(per="channel"),
    te.BWN(),
    te.DoReFa(bits=3),
    te.AbsMean(),
]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_to_json_and_back(config):
    plain = json.loads(json.dumps(config_to_dict(config)))
    assert plain["version"] == 1
    assert config_from_dict(plain) == config


def test_a_study_may_leave_out_version_and_defaults():
    assert config_from_dict({"type": "TTQ", "learn_scales": False}) == te.TTQ(learn_scales=False)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"type": "TTK"}, "unknown type 'TTK'; did you mean 'TTQ'"),
        ({"type": "TTQ", "treshold": 0.1}, "treshold: unknown key.*did you mean 'threshold'"),
        ({"type": "TTQ", "threshold": -0.1}, "threshold: must be at least 0.0"),
        ({"type": "TTQ", "per": "chanel"}, "did you mean 'channel'"),
        ({"type": "TTQ", "learn_scales": "no"}, "learn_scales: expected true or false"),
        ({"type": "DoReFa", "bits": 0}, "bits: must be at least 1"),
        ({"type": "TWN", "version": 2}, "version: expected 1"),
        ({"threshold": 0.1}, "expected a mapping with 'type'"),
    ],
)
def test_wrong_mappings_are_one_line(mapping, message):
    with pytest.raises(InputError, match=message) as caught:
        config_from_dict(mapping)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: te.TTQ(threshold=1.0),
        lambda: te.TTQ(sparsity=1.0),
        lambda: te.TTQ(sparsity=1.5),
        lambda: te.TTQ(threshold=float("nan")),
        lambda: te.DoReFa(bits=9),
    ],
)
def test_values_that_leave_no_weight_or_make_no_sense_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_configurations_are_frozen_and_hashable():
    assert len({te.TTQ(), te.TTQ(), te.TTQ(threshold=0.1)}) == 2
    with pytest.raises(AttributeError):
        te.TTQ().threshold = 0.1
