"""Two processes under torchrun train what one does, and one of them writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

import ttq_energy

if not distributed.is_available() or not distributed.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
import ttq_energy as te
from ttq_energy.measurement.energy import Energy
from ttq_energy.study import TrainingSpec
from ttq_energy.training import train

class Meter:
    def window(self, name):
        import contextlib
        return contextlib.nullcontext()
    def __getitem__(self, name):
        return Energy(name, 1.0, 7.0, 6.0, 8.0, "counter")
    def forget(self, name):
        pass

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("RANK", 0)))
model = torch.nn.Sequential(
    torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(),
    torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
te.prepare_(model, te.TTQ())
out = Path(sys.argv[1])
told = []
spec = TrainingSpec(epochs=2, batch_size=64, learning_rate=0.05)
for attempt in range(2):  # A study trains more than once in the same processes.
    told.clear()
    torch.manual_seed(int(os.environ.get("RANK", 0)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    result = train(model, te.datasets.load("digits"), spec, checkpoint=out / "x.safetensors",
                   on_epoch=told.append, monitor=Meter(), save_every_s=0.0)
rank = os.environ.get("RANK", "0")
last = result.records[-1]
(out / f"rank{rank}.json").write_text(json.dumps({
    "loss": [r.loss for r in result.records], "told": len(told), "accuracy": result.accuracy,
    "examples": result.examples, "energy_j": last.energy_j,
    "sum": float(sum(p.double().abs().sum() for p in model.parameters()))}))
"""


def run(folder: Path, *launcher: str) -> list[dict]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(ttq_energy.__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *launcher, str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(p.read_text()) for p in sorted(folder.glob("rank*.json"))]


def test_two_processes_train_what_one_does(tmp_path):
    (alone,) = run(tmp_path / "one")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    first, second = run(tmp_path / "two", *launcher)
    # Each rank begins from other weights; those of rank 0 are the ones trained.
    assert first["loss"] == pytest.approx(alone["loss"], rel=0.02)
    assert first["loss"] == second["loss"]
    assert first["sum"] == second["sum"]
    assert first["accuracy"] == pytest.approx(alone["accuracy"], abs=0.03)
    assert (first["examples"], first["told"], second["told"]) == (360, 2, 0)
    # Both share this host's sensors: they are read once.
    assert first["energy_j"] % 7.0 == 0.0
    assert first["energy_j"] == second["energy_j"]
    assert torch.tensor(first["loss"]).isfinite().all()
