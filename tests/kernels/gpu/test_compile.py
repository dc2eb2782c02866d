"""Every kernel compiles to machine code for three generations of GPUs, on a machine without one."""

# ruff: noqa: E402

import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip(
    "triton", reason="triton is not installed (pip install ttq-energy[triton])"
)

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ttq_energy.kernels import pack_linear
from ttq_energy.kernels.gpu import (
    activations,
    convolution,
    launch,
    layout,
    matmul,
    recurrence,
    tuning,
)
from ttq_energy.kernels.gpu.paths import Path as KernelPath

if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET is set", allow_module_level=True)


@pytest.fixture(autouse=True, scope="module")
def nothing_from_a_cache(tmp_path_factory):
    """What an earlier run compiled proves nothing."""
    before = triton.knobs.cache.dir
    triton.knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))
    yield
    triton.knobs.cache.dir = before


TARGETS = (80, 90, 100)
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
SHAPES = ("rows_total", "columns_total", "x_stride", "pixel_stride", "channels_known", "hidden")
ENDING = {"HAS_BIAS": True, "HAS_RESIDUAL": True, "RELU": True}


def compiled(kernel, target, constants, pointers, *, warps=4, stages=3):
    """The compiled kernel; pointers are by name, every other argument is an int32."""
    names = kernel.arg_names
    signature = {
        name: "constexpr"
        if name in constants
        else "*" + pointers[name[:-4]]
        if name.endswith("_ptr")
        else "i32"
        for name in names
    }
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name.endswith("_ptr") or name in SHAPES
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, values, aligned)
    return triton.compile(
        source,
        target=GPUTarget("cuda", target, 32),
        options={"num_warps": warps, "num_stages": stages},
    )


def pointers(dtype="bf16", int8=False):
    number = "i32" if int8 else "fp32"
    return {
        **dict.fromkeys(("x", "h", "gates", "residual", "y", "c", "h_out", "c_out"), dtype),
        **dict.fromkeys(("scale_pos", "scale_neg", "bias", "x_scale", "scale", "largest"), "fp32"),
        **({"x": "i8"} if int8 else {}),
        "words": "i8" if int8 else "i16",
        "values": "i32",
        "partial": number,
        "counter": "i32",
    }


def tile(**changes):
    return {
        "G": 64,
        "BLOCK_ROWS": 64,
        "BLOCK_BATCH": 16,
        "INT8": False,
        "SPLIT_FP32": False,
        "PRODUCTS": "both",
        "WHOLE": True,
        "SPLIT_K": True,
        **ENDING,
        **changes,
    }


LINEAR = {
    "few, bfloat16": ("bf16", tile(UNROLLED=True), 4, 3),
    "few, float32": ("fp32", tile(UNROLLED=True, SPLIT_FP32=True), 4, 2),
    "few, int8": ("bf16", tile(UNROLLED=True, INT8=True), 4, 3),
    "many, float16, rounded": (
        "fp16",
        tile(UNROLLED=False, BLOCK_ROWS=128, BLOCK_BATCH=128, PRODUCTS="rounded", SPLIT_K=False),
        8,
        3,
    ),
    "many, int8, padded": (
        "bf16",
        tile(UNROLLED=False, BLOCK_ROWS=128, BLOCK_BATCH=64, INT8=True, WHOLE=False),
        4,
        4,
    ),
}


@pytest.mark.parametrize(
    ("case", "target"),
    [
        *((case, 90) for case in LINEAR),
        ("few, bfloat16", 80),
        ("many, int8, padded", 80),
        ("few, float32", 100),
        ("many, float16, rounded", 100),
    ],
)
def test_linear(case, target):
    dtype, constants, warps, stages = LINEAR[case]
    arguments = pointers(dtype, constants["INT8"])
    kernel = compiled(
        matmul.linear_kernel, target, constants, arguments, warps=warps, stages=stages
    )
    assert kernel.asm["cubin"]
    assert kernel.metadata.shared <= 160 * 1024, "would not fit an A100's multiprocessor"


@pytest.mark.parametrize("target", TARGETS)
def test_vector(target):
    constants = {
        "G": 64,
        "BLOCK_ROWS": 16,
        "PRODUCTS": "both",
        "WHOLE": True,
        "SPLIT_K": True,
        **ENDING,
    }
    assert compiled(matmul.vector_kernel, target, constants, pointers()).asm["cubin"]


@pytest.mark.parametrize(
    ("target", "int8", "across_taps"),
    [
        (90, False, False),
        (90, True, True),
        (80, True, False),
        (80, False, True),
        (100, False, False),
        (100, True, False),
    ],
)
def test_conv2d(target, int8, across_taps):
    constants = tile(G=16, BLOCK_BATCH=64, INT8=int8, ACROSS_TAPS=across_taps)
    assert compiled(convolution.conv2d_kernel, target, constants, pointers(int8=int8)).asm["cubin"]


@pytest.mark.parametrize(("target", "dtype"), [(80, "bf16"), (90, "fp32"), (100, "bf16")])
def test_lstm_step(target, dtype):
    constants = {
        "G": 64,
        "BLOCK_UNITS": 16,
        "BLOCK_BATCH": 16,
        "SPLIT_FP32": dtype == "fp32",
        "PRODUCTS": "both",
        "WHOLE": True,
        "HAS_BIAS": True,
    }
    arguments = pointers(dtype)
    assert compiled(recurrence.lstm_step_kernel, target, constants, arguments, stages=2).asm[
        "cubin"
    ]


SMALL = {
    "quantize rows": (activations.quantize_rows_kernel, {"G": 64, "BLOCK": 1024}),
    "quantize images": (
        activations.quantize_images_kernel,
        {"G": 32, "INTERLEAVED": True, "BLOCK_PIXELS": 64, "BLOCK_CHANNELS": 64},
    ),
    "decode": (activations.dense_kernel, {"G": 64, "BLOCK_ROWS": 64}),
    "cell": (activations.cell_kernel, {"BLOCK": 256}),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", SMALL)
def test_small_kernels(case, target):
    kernel, constants = SMALL[case]
    arguments = pointers()
    if "quantize" in case:
        arguments["y"] = "i8"
    assert compiled(kernel, target, constants, arguments).asm["cubin"]


def test_weights_go_from_registers_into_hoppers_tensor_cores(tmp_path):
    """The design's claim: 1.5 instructions decode a weight, and products are warpgroup ones."""
    disassembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    if not disassembler.exists():
        pytest.skip("this Triton carries no disassembler")
    constants = tile(UNROLLED=True)
    kernel = compiled(matmul.linear_kernel, 90, constants, pointers())
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    text = subprocess.run([disassembler, "-c", cubin], capture_output=True, text=True).stdout
    code = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)", text, re.MULTILINE)
    weights = 64 * 512 // 128  # of a chunk, for each thread
    assert code.count("HGMMA") == 512 // 16 * 2
    assert "HMMA" not in code
    assert code.count("LOP3") < 1.25 * weights
    assert code.count("PRMT") < 0.1 * weights, "words are taken apart and put together again"
    assert "LDL" not in code, "registers spill"


class NoDevice:
    """Triton's driver for a device that is only compiled for."""

    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)


@pytest.mark.skipif(not tuning.PARSES_IN_THREADS, reason="this Python parses in one thread only")
def test_candidates_of_a_shape_are_compiled_side_by_side_and_not_run(monkeypatch):
    monkeypatch.setattr(triton.runtime.driver, "_active", NoDevice())
    for kernel in (matmul.linear_kernel, matmul.vector_kernel):
        monkeypatch.setattr(
            kernel, "device_caches", type(kernel.device_caches)(kernel.create_binder)
        )
    weight = layout.repack(pack_linear(torch.ones(64, 512, dtype=torch.int8), 0.7, 0.3))
    x = torch.ones(1, 512, dtype=torch.bfloat16)
    y = torch.full((1, 64), 3.0, dtype=torch.bfloat16)
    paths = [
        KernelPath("tile", "both", 64, 16, True, 1, 4, 2),
        KernelPath("vector", "both", 16, 1, True, 1, 2, 3),
        KernelPath("dense"),
    ]
    ran = []

    def run(path):
        ran.append(path.kernel)
        return launch.linear(path, x, None, weight, launch.Ending(), y)

    tuning.compile_together(paths, run)
    assert ran == ["tile", "vector"]
    assert (y == 3).all(), "a kernel ran"
    for kernel in (matmul.linear_kernel, matmul.vector_kernel):
        (compiled_kernel,) = kernel.device_caches[0][0].values()
        assert compiled_kernel.asm["cubin"]
