"""Runs the kernels' checks where Triton is an interpreter, which a process chooses at its start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ttq_energy.run import load_run

pytest.importorskip("triton", reason="triton is not installed (pip install ttq-energy[triton])")

ROOT = Path(__file__).parents[3]
INTERPRETED = Path(__file__).parent / "interpreted"


def interpreted(*command, **variables):
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=540,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def test_every_kernel_against_float64_in_the_interpreter():
    checks = INTERPRETED / "checks.py"
    # -P: the package that is installed, not the sources in this folder, which lack native code.
    interpreted("-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", checks)


def test_the_gpus_benchmark_runs_unattended_to_its_end(tmp_path):
    """All of it but the GPU, which is the CPU; NVML is absent, so that no energy is measured."""
    told = interpreted(
        INTERPRETED / "fake_cuda.py",
        "benchmarks/gpu.py",
        *("--rows", 16, "--columns", 32, "--batches", 1, "--rounds", 2, "--no-compile"),
        *("--out", tmp_path / "run"),
        TTQ_ENERGY_GPU_TUNING="off",
        TTQ_ENERGY_GPU_CACHE=str(tmp_path / "cache"),
    )
    assert "batch 1: baseline" in told
    assert "no energy is measured: nvml" in told
    assert "left out" not in told
    times = json.loads((tmp_path / "run" / "times.json").read_text())["times"]
    forms = {row["form"] for row in times}
    assert forms == {"fp32", "tf32", "fp16", "bf16", "int8", "ttq bf16", "ttq int8"}
    ran = {row["what_ran"] for row in times if row["form"] == "ttq int8"}
    assert ran == {
        f"{how}; triton 2-bit tensor-core int8, not tuned" for how in ("eager", "CUDA graph")
    }
    assert load_run(tmp_path / "run").status == "complete"
