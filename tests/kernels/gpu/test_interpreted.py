"""Runs the kernels' checks where Triton is an interpreter, which a process chooses at its start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed (pip install ttq-energy[triton])")

CHECKS = Path(__file__).parent / "interpreted" / "checks.py"


def test_every_kernel_against_float64_in_the_interpreter():
    root = Path(__file__).parents[3]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CHECKS)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
        timeout=540,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
