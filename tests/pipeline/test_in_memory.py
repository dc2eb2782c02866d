"""What ``profile`` refuses of models in memory, before it writes anything."""

import os

import numpy as np
import pytest
import torch
from torch import nn

import ttq_energy as te
from ttq_energy.errors import InputError
from ttq_energy.pipeline.in_memory import study_of_modules
from ttq_energy.study import MeasurementSpec

MODEL = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
INPUTS = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"study": {"a": nn.Linear}}, "expected a torch module, got the class Linear"),
        ({"study": {"a": nn.LazyLinear(2)}}, "profile: 'a': the parameter 'weight' is not init"),
        ({"study": {1: MODEL}}, "expected variant names as text, got 1"),
        ({"study": {"": MODEL}}, "expected a name as text, got ''"),
        ({"study": {"a\nb": MODEL}}, "printable"),
        ({"study": [MODEL]}, "mapping of names to modules, got list"),
        ({"study": MODEL}, "mapping of names to modules, got Sequential"),
        ({"inputs": (INPUTS,)}, "'inputs' must be a batch, a tensor, got tuple"),
        ({"inputs": INPUTS.to("meta")}, "on the device 'meta' nothing can be measured"),
        ({"inputs": torch.zeros(3, 5)}, "the model does not take it"),
        ({"targets": "generic-45nm"}, "targets: expected a list of names"),
        ({"measurement": {"block_s": 1}}, "measurement: expected a MeasurementSpec"),
        ({"measurement": MeasurementSpec(block_s=-1)}, "block_s: must be above 0.0, got -1"),
        ({"resume": True}, "resume goes with a study"),
        ({"out": ""}, "out: expected a path, got ''"),
        ({"out": 5}, "out: expected a path, got 5"),
    ],
)
def test_arguments_that_cannot_be_profiled(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"study": {"a": MODEL}, "inputs": INPUTS, "out": "run", **arguments}
    with pytest.raises(InputError) as caught:
        te.profile(given.pop("study"), **given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_numbers_of_numpy_are_recorded_as_numbers():
    spec = MeasurementSpec(block_s=np.float32(0.5), max_rounds=np.int64(7), threads=np.int32(1))
    plain = study_of_modules({"a": MODEL}, INPUTS, (), spec).to_dict()["measurement"]
    assert [type(plain[key]) for key in ("block_s", "max_rounds", "threads")] == [float, int, int]


def test_modules_keep_their_mode(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    model[1].eval()
    spec = MeasurementSpec(
        block_s=0.01, idle_s=0.01, warmup_s=0.01, min_rounds=1, max_rounds=1, budget_s=1
    )
    te.profile({"a": model}, inputs=INPUTS, out=tmp_path / "run", measurement=spec)
    assert model.training
    assert not model[1].training
