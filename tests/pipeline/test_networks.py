"""How often a study's networks are built, what of them is kept, and what is saved."""

import pytest
import torch

import ttq_energy as te
from ttq_energy.pipeline import measurement_stage, networks, plan
from ttq_energy.pipeline.networks import Networks
from ttq_energy.quantization import quantized_layers
from ttq_energy.run import create_run
from ttq_energy.study import study_from_dict

SETTINGS = {
    "name": "random",
    "models": [{"name": "resnet20", "options": {"in_channels": 1, "image_size": 8}}],
    "variants": ["fp32", "int8", "ttq", "ttq-int8"],
    "measurement": {
        "batch_sizes": [1, 2],
        "threads": 1,
        "block_s": 0.01,
        "idle_s": 0.02,
        "warmup_s": 0.02,
        "min_rounds": 1,
        "max_rounds": 1,
    },
}


@pytest.fixture
def built(monkeypatch):
    """Counts the networks that are built."""
    calls = []
    build = plan.Subject.build

    def counted(self, seed):
        calls.append(seed)
        return build(self, seed)

    monkeypatch.setattr(plan.Subject, "build", counted)
    return calls


def make(tmp_path, **options):
    found = plan.make_plan(study_from_dict(SETTINGS))
    run = create_run(tmp_path / "run", {}, {})
    return found, Networks(found, run, **options)


def test_a_study_on_random_weights_builds_once_and_saves_nothing(built, tmp_path, monkeypatch):
    converted = []
    convert = networks.convert
    monkeypatch.setattr(
        networks, "convert", lambda *a, **o: converted.append(o["activations"]) or convert(*a, **o)
    )
    run = te.profile(study_from_dict(SETTINGS), out=tmp_path / "run")
    assert set(run.measurements["batch_size"]) == {1, 2}
    assert len(built) == 1
    assert sorted(converted) == ["fp32", "int8"], "each packed once for all batch sizes"
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert any("weights are random" in text for text in run.manifest["messages"])


def test_random_weights_are_the_seeds_and_shared_by_the_variants(tmp_path):
    found, nets = make(tmp_path)
    (subject,) = found.subjects
    dense = nets.trained(subject, found.variant("fp32"), 0)
    ternary = nets.trained(subject, found.variant("ttq"), 0)
    assert nets.trained(subject, found.variant("ttq-int8"), 0) is ternary
    assert not quantized_layers(dense)
    assert len(quantized_layers(ternary)) == 18
    expected = subject.build(0).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in dense.state_dict().items())
    layer = quantized_layers(ternary)["layer1.0.conv1"]
    assert torch.equal(layer.latent(), expected["layer1.0.conv1.weight"])


def test_only_the_latest_is_kept_where_memory_is_short(built, tmp_path):
    found, nets = make(tmp_path, kept_bytes=1)
    (subject,) = found.subjects
    built.clear()
    dense, ternary = found.variant("fp32"), found.variant("ttq")
    nets.trained(subject, dense, 0)
    nets.trained(subject, ternary, 0)
    assert len(nets._kept) == 1
    nets.trained(subject, dense, 0)
    assert len(built) > 1


def test_what_does_not_run_on_a_gpu_is_told_and_left_out(tmp_path):
    run = create_run(tmp_path / "run", {}, {})
    with measurement_stage._left_out(run, "vit, batch size 256: fp32", "cuda"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    (message,) = run.manifest["messages"]
    assert message.startswith("vit, batch size 256: fp32: left out: CUDA out of memory")
    with (
        pytest.raises(RuntimeError, match="illegal"),
        measurement_stage._left_out(run, "vit", "cuda"),
    ):
        raise RuntimeError("CUDA error: an illegal memory access")
    with pytest.raises(RuntimeError), measurement_stage._left_out(run, "vit", "cpu"):
        raise RuntimeError("a mistake on the CPU is not hidden")
