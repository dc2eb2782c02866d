"""The main job from a study to a Run: whole, interrupted and resumed, and on models in memory."""

import pytest
import torch

import ttq_energy as te
from ttq_energy.errors import InputError
from ttq_energy.pipeline import accuracy_stage, measurement_stage
from ttq_energy.reporting import render
from ttq_energy.run import Run, load_run
from ttq_energy.study import MeasurementSpec, study_from_dict

FAST = {
    "batch_sizes": [2],
    "threads": 1,
    "block_s": 0.02,
    "idle_s": 0.05,
    "warmup_s": 0.1,
    "min_rounds": 3,
    "max_rounds": 3,
    "budget_s": 30,
}


@pytest.fixture
def study():
    return study_from_dict(
        {
            "name": "tiny",
            "models": [
                {
                    "name": "resnet20",
                    "options": {"in_channels": 1, "image_size": 8},
                    "dataset": "digits",
                }
            ],
            "training": {"epochs": 1, "batch_size": 256, "fine_tune": {"epochs": 1}},
            "variants": ["fp32", "int8", "ttq", "ttq-int8"],
            "measurement": FAST,
            "targets": ["generic-45nm"],
        }
    )


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_study_becomes_a_run_and_an_interrupted_one_goes_on(study, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(measurement_stage, "measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            te.profile(study, out=out)
    stopped = load_run(out)
    assert stopped.status == "interrupted"
    assert stopped.measurements.empty
    trained = stopped.training
    assert render(stopped, "pdf").read_bytes().startswith(b"%PDF")

    with pytest.raises(InputError, match="already holds a run"):
        te.profile(study, out=out)

    run = te.profile(study, out=out, resume=True)
    assert run.status == "complete"
    assert run.training.equals(trained), "what was trained is not trained again"

    names = {"fp32", "int8", "ttq", "ttq-int8"}
    selected = run.training[run.training["selected"]]
    assert set(selected["variant"]) == names
    assert (selected["accuracy_low"] <= selected["accuracy"]).all()
    assert set(run.measurements["variant"]) == names
    assert set(run.layers["variant"]) == names
    assert set(run.estimates["target"]) == {"generic-45nm"}
    figures = run.manifest["targets"]["generic-45nm"]["figures"]
    assert {f["evidence"] for f in figures.values()} <= {
        "published",
        "derived",
        "recalled",
        "assumption",
    }
    assert run.measurements["kernel"].str.len().min() > 0
    kernels = run.measurements.groupby("variant")["kernel"].first()
    assert "ttq-energy" in kernels["ttq"]
    assert "ttq-energy" not in kernels["fp32"]
    latency = run.comparisons[run.comparisons["quantity"] == "latency"]
    assert set(latency["provenance"]) <= {"timed"}
    joules = run.measurements.dropna(subset=["energy_j"])
    assert (joules["provenance"] != "").all()
    assert (joules["energy_low_j"] <= joules["energy_j"]).all()


def test_a_resumed_study_must_be_the_same(study, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(accuracy_stage, "executable", interrupt)
    with pytest.raises(KeyboardInterrupt):
        te.profile(study, out=out)
    other = study_from_dict({**study.to_dict(), "seeds": [1]})
    with pytest.raises(InputError, match="'seeds' differs"):
        te.profile(other, out=out, resume=True)


def test_models_in_memory(tmp_path):
    model = torch.nn.Sequential(
        torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16), torch.nn.Linear(16, 4)
    )
    x = torch.randn(3, 12)
    ternary = te.prepare_(
        torch.nn.Sequential(
            torch.nn.Linear(12, 16),
            torch.nn.ReLU(),
            torch.nn.Linear(16, 16),
            torch.nn.Linear(16, 4),
        ),
        te.TTQ(),
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = te.profile(
        {"fp32": model, "ttq": te.convert(ternary)},
        inputs=x,
        out=tmp_path / "run",
        targets=["generic-45nm"],
        measurement=MeasurementSpec(
            block_s=0.02, idle_s=0.05, warmup_s=0.1, min_rounds=3, max_rounds=3
        ),
    )
    assert run.status == "complete"
    assert set(run.measurements["variant"]) == {"fp32", "ttq"}
    assert set(run.measurements["batch_size"]) == {3}
    assert set(run.estimates["variant"]) == {"fp32", "ttq"}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"study": {}, "inputs": torch.zeros(1, 2)}, "at least one module"),
        ({"study": {"a": torch.nn.Linear(2, 2)}}, "'inputs' must be a batch"),
        ({"study": {"a": torch.nn.Linear(2, 2)}, "inputs": torch.zeros(0, 2)}, "'inputs' must be"),
        ({"study": "quickstart", "inputs": torch.zeros(1, 2)}, "go with modules"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        te.profile(**arguments, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def killed(*_, **__):
    raise SystemExit("killed")


def test_a_stage_that_was_killed_before_it_was_recorded_leaves_no_row_twice(
    study, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        # Whatever follows the rows of a stage may be cut off: each is killed at its recording.
        for stage in ("train|resnet20|ttq|0", "estimate|resnet20", "measure|resnet20|2"):
            finish = Run.finish
            patch.setattr(
                Run,
                "finish",
                lambda run, key, wall_s, stage=stage, finish=finish: (
                    killed() if key == stage else finish(run, key, wall_s)
                ),
            )
            with pytest.raises(SystemExit):
                te.profile(study, out=out, resume=out.exists())
            patch.undo()
    run = te.profile(study, out=out, resume=True)
    training = run.training[["variant", "seed", "epoch"]]
    assert not training.duplicated().any()
    assert not run.layers[["variant", "layer"]].duplicated().any()
    assert not run.estimates[["variant", "layer", "component"]].duplicated().any()
    assert not run.measurements[["variant", "round", "domain"]].duplicated().any()
    assert len(run.manifest["estimate_ratios"]) == 3
    assert [file for file in out.rglob("*") if "state" in file.name] == []


def test_a_folder_with_remains_of_a_run_is_refused(study, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet20-fp32-seed0.training-state.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds checkpoints/resnet20.* but no run\.json"):
        te.profile(study, out=tmp_path)


def test_a_study_means_the_same_whatever_torch_defaults_the_caller_has_set(tmp_path):
    study = study_from_dict(
        {
            "name": "t",
            "models": [{"name": "lstm-lm", "options": {"hidden_size": 8, "embedding_size": 8}}],
            "variants": ["ttq"],
            "measurement": FAST,
            "targets": ["generic-45nm"],
        }
    )
    plain = te.profile(study, out=tmp_path / "plain")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode():
            other = te.profile(study, out=tmp_path / "other")
    finally:
        torch.set_default_dtype(torch.float32)
    assert other.layers.equals(plain.layers)
    assert other.estimates.equals(plain.estimates)
