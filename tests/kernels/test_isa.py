"""Choosing the instruction set, and the kernels of those that this machine lacks."""

import copy
import mmap
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ttq_energy
from ttq_energy.errors import InputError
from ttq_energy.kernels import isa
from ttq_energy.kernels.modules import TernaryLinear

ROOT = Path(__file__).parents[2]
SOURCES = [
    str(ROOT / "src" / f"{name}.cpp")
    for name in (
        "linear",
        "linear_panel",
        "linear_tiles",
        "linear_wide",
        "conv2d",
        "conv2d_wide",
        "lookup_conv2d",
        "windows",
        "cells",
        "decoding",
        "linear_lanes",
        "pack",
        "parallel",
        "dispatch",
        "isa_portable",
        "isa_avx2",
        "isa_avx_vnni",
        "isa_avx512",
        "isa_avx512_plain",
        "isa_neon",
        "isa_neon_dotprod",
    )
]


def run_python(code: str, wanted: str) -> subprocess.CompletedProcess[str]:
    """In the package under test, which need not be the one in the working folder."""
    package = str(Path(ttq_energy.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "TTQ_ENERGY_ISA": wanted, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_best_comes_first_and_portable_last():
    assert isa.available()[-1] == "portable"
    assert isa.active() in isa.available()


def test_the_environment_chooses():
    done = run_python("from ttq_energy.kernels import isa; print(isa.active())", "portable")
    assert done.stdout.strip() == "portable"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("avx3", "did you mean 'avx2'"), ("neon-dotprod", "usable here"), ("avx512", "usable here")],
)
def test_an_instruction_set_that_is_not_here_is_refused(wanted, said):
    if wanted in isa.available():
        pytest.skip(f"this CPU has {wanted}")
    with pytest.raises(InputError) as caught:
        isa._select(isa.native(), wanted)
    assert str(caught.value).startswith("TTQ_ENERGY_ISA: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def compile_and_run(
    folder: Path, compiler: list[str], runner: list[str], names: list[str]
) -> subprocess.CompletedProcess[str]:
    program = folder / "kernel_test"
    test = ROOT / "tests" / "kernels" / "native" / "kernel_test.cpp"
    command = [*compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-pthread", "-w"]
    command += [f"-I{ROOT / 'src'}", str(test), *SOURCES, "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return subprocess.run(
        [*runner, str(program), *names], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.skipif(
    not Path("/usr/include/simde/x86/avx512.h").exists(), reason="needs SIMDe (libsimde-dev)"
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs an x86-64 machine")
def test_emulated_avx512_and_avx_vnni_agree_with_portable(tmp_path):
    done = compile_and_run(
        tmp_path, ["g++", "-msse4.1", "-DTTQ_EMULATE"], [], ["avx512", "avx512-plain", "avx-vnni"]
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.skipif("avx2" not in isa.available(), reason="needs a CPU with AVX2")
def test_avx2_and_portable_agree_with_plain_sums(tmp_path):
    done = compile_and_run(tmp_path, ["g++", "-mavx2", "-mfma"], [], ["avx2", "portable"])
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="needs aarch64-linux-gnu-g++")
@pytest.mark.skipif(not shutil.which("qemu-aarch64-static"), reason="needs qemu-aarch64-static")
def test_neon_and_neon_dotprod_agree_with_portable_under_qemu(tmp_path):
    compiler = ["aarch64-linux-gnu-g++", "-march=armv8.2-a+dotprod", "-static"]
    done = compile_and_run(tmp_path, compiler, ["qemu-aarch64-static"], ["neon", "neon-dotprod"])
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="huge pages are asked for on Linux")
def test_large_weights_lie_on_huge_pages_through_copies_and_files():
    codes = torch.randint(-1, 2, (2100, 4096), dtype=torch.int8)
    layer = TernaryLinear(codes, 0.3, 0.2)
    for module in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert module.packed.data_ptr() % isa.HUGE_PAGE_BYTES == 0
        assert module.packed.untyped_storage().nbytes() == module.packed.numel()
        assert torch.equal(module.codes(), codes)
