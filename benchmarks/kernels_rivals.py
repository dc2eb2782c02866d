"""Rivals of the packed linear kernels: torch's, a dense GEMV, onnxruntime's and, if built, ggml's.

Each builder yields contenders whose results have been compared with float64 arithmetic first. What
is not installed, or gives a wrong result, is left out with one line that says so.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from kernels_race import Contender, fastest, rotating
from torch import Tensor

from ttq_energy.kernels import PackedWeight, isa, pack_linear, ternary_linear

W_POS, W_NEG = 0.03, 0.02
CHECKED_ROWS = 4
NEAR_OUTPUTS = 128, 256  # layers of so many outputs have their packed weights in the near caches
EXACT, HALF, INT8, FOUR_BIT = 1e-5, 1e-2, 2e-2, 2e-2  # relative errors (norm) to pass


@functools.cache
def note(text: str) -> None:
    """Print a line beginning with # once."""
    print(f"# {text}", flush=True)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass
class Layer:
    """A ternary linear layer to race on.

    Attributes:
        x: (batch, columns) float32.
        codes: int8 (out, columns) in {-1, 0, 1}.
        cold: whether the weights come from memory at each call.
        threads: of each contender.
    """

    x: Tensor
    codes: Tensor
    cold: bool
    threads: int

    @classmethod
    def random(cls, out: int, columns: int, batch: int, cold: bool, threads: int) -> Layer:
        """Codes of equal shares; standard normal activations; the same at every call."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, columns, generator=generator)
        codes = torch.randint(-1, 2, (out, columns), dtype=torch.int8, generator=generator)
        return cls(x, codes, cold, threads)

    @property
    def batch(self) -> int:
        return len(self.x)

    def weight(self, w_pos: float = W_POS, w_neg: float = W_NEG) -> Tensor:
        """The float32 weights."""
        return torch.where(self.codes > 0, w_pos, torch.where(self.codes < 0, -w_neg, 0.0))

    def error(self, y: Tensor, symmetric: bool = False) -> float:
        """Relative distance (norm) of the first rows of a result from float64 arithmetic."""
        exact = self._exact(symmetric)
        return float((y[:CHECKED_ROWS].double() - exact).norm() / exact.norm())

    def _exact(self, symmetric: bool) -> Tensor:
        weight = self.weight(W_POS, W_POS if symmetric else W_NEG)
        return self.x[:CHECKED_ROWS].double() @ weight.double().T

    def contender(
        self,
        name: str,
        build: Callable[[], Any],
        apply: Callable[[Any], Tensor],
        weight_bytes: int,
        tolerance: float,
        *,
        symmetric: bool = False,
        **facts: Any,
    ) -> Iterator[Contender]:
        """The contender, if it runs and is right: ``apply`` on each of the copies in turn."""
        try:
            take = rotating(build, weight_bytes, self.cold)
            with torch.inference_mode():
                error = self.error(apply(take()), symmetric)
        except Exception as failure:
            # Rivals raise what they like; none may end a run that is not about it alone.
            note(f"{name} is left out: {first_line(failure)}")
            return
        if not error <= tolerance:
            note(f"{name} is left out: relative error {error:.2g}, expected {tolerance:g} at most")
            return
        yield Contender(name, lambda: apply(take()), weight_bytes, **facts)


def packed(layer: Layer) -> Iterator[Contender]:
    """This package's kernels, both precisions."""
    for kind, tolerance in (("fp32", EXACT), ("int8", INT8)):
        weight = pack_linear(layer.codes, W_POS, W_NEG, kind)
        yield from layer.contender(
            f"ttq-energy {kind} ({isa.active()})",
            functools.partial(_copy, weight),
            lambda copy: ternary_linear(layer.x, copy),
            weight.packed.numel(),
            tolerance,
            near_s=_near_seconds(layer, kind),
            ours=True,
        )


def _near_seconds(layer: Layer, kind: str) -> float:
    """Time of the layer if its weights were in the near caches, from two small layers' times."""
    small, large = NEAR_OUTPUTS

    def seconds(outputs: int) -> float:
        weight = pack_linear(layer.codes[:outputs], W_POS, W_NEG, kind)
        return fastest(functools.partial(ternary_linear, layer.x, weight), 0.1)

    if len(layer.codes) <= large:
        return seconds(len(layer.codes))
    start = seconds(small)
    return start + (seconds(large) - start) * (len(layer.codes) - small) / (large - small)


def _copy(weight: PackedWeight) -> PackedWeight:
    """The same weights in bytes of their own."""
    return PackedWeight(
        isa.settled(weight.packed.clone()),
        weight.w_pos,
        weight.w_neg,
        weight.scale_pos,
        weight.scale_neg,
        weight.shape,
        weight.activations,
    )


def torch_fp32(layer: Layer, compile: bool) -> Iterator[Contender]:
    """torch's float32 linear: eager, oneDNN on prepacked weights, and compiled."""
    x, dense = layer.x, layer.weight()
    size = 4 * dense.numel()
    yield from layer.contender("torch fp32", dense.clone, lambda w: F.linear(x, w), size, EXACT)
    if torch.backends.mkldnn.is_available():
        reorder = torch.ops.mkldnn._reorder_linear_weight
        pointwise = torch.ops.mkldnn._linear_pointwise
        yield from layer.contender(
            "torch fp32, oneDNN prepacked",
            lambda: reorder(dense.clone(), layer.batch),
            lambda w: pointwise(x, w, None, "none", [], ""),
            size,
            EXACT,
        )
    if compile:
        compiled = torch.compile(F.linear)
        yield from layer.contender(
            "torch fp32, compiled", dense.clone, lambda w: compiled(x, w), size, EXACT
        )


def torch_low_precision(layer: Layer) -> Iterator[Contender]:
    """torch's bfloat16 linear and its dynamic int8 linear with one weight scale an output."""
    dense = layer.weight()
    half = layer.x.bfloat16()
    yield from layer.contender(
        "torch bf16", dense.bfloat16, lambda w: F.linear(half, w), 2 * dense.numel(), HALF
    )
    dynamic = torch.ops.quantized.linear_dynamic
    yield from layer.contender(
        "torch int8 dynamic",
        functools.partial(torch.ops.quantized.linear_prepack, _torch_int8(dense), None),
        lambda w: dynamic(layer.x, w, True),
        dense.numel(),
        INT8,
    )


def _torch_int8(dense: Tensor) -> Tensor:
    scales = dense.abs().amax(1).double().clamp_min(1e-12) / 127
    zeros = torch.zeros(len(dense), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_channel(dense, scales, zeros, 0, torch.qint8)


def dense_gemv(layer: Layer) -> Iterator[Contender]:
    """A plain dense float32 product of this package, whose rows are shared out to the threads."""
    if layer.batch > 1:
        return
    dense = layer.weight()
    out, columns = dense.shape
    y = torch.empty(1, out)
    run = isa.native().dense_gemv

    def apply(weight: Tensor) -> Tensor:
        run(layer.x.data_ptr(), weight.data_ptr(), out, columns, y.data_ptr(), layer.threads)
        return y

    yield from layer.contender("own dense fp32 GEMV", dense.clone, apply, 4 * dense.numel(), EXACT)


def onnxruntime(layer: Layer) -> Iterator[Contender]:
    """onnxruntime's MatMulNBits at 2 and 4 bits with int8, and at 4 also with fp32 activations.

    Blocks of 32 share one scale and the zero point is the middle, so that the weights are
    symmetric ternary ones. accuracy_level 4 asks for int8 activations, 1 for float32 ones.
    """
    try:
        import onnx
        import onnxruntime as ort
    except ImportError as error:
        note(f"onnxruntime's MatMulNBits is left out: {error} (pip install onnxruntime onnx)")
        return
    for bits, level, activations in ((2, 4, "int8"), (4, 4, "int8"), (4, 1, "fp32")):
        name = f"onnxruntime {ort.__version__} {bits}-bit, {activations} activations"
        model = _matmul_nbits(onnx, layer.codes, bits, level)
        options = ort.SessionOptions()
        options.intra_op_num_threads = layer.threads
        options.log_severity_level = 3
        start = functools.partial(
            ort.InferenceSession, model, options, providers=["CPUExecutionProvider"]
        )
        yield from layer.contender(
            name,
            start,
            _runner(layer.x.numpy()),
            layer.codes.numel() * bits // 8 + layer.codes.numel() // 32 * 4,
            FOUR_BIT if activations == "int8" else EXACT,
            symmetric=True,
        )


def _runner(x: Any) -> Callable[[Any], Tensor]:
    return lambda session: torch.from_numpy(session.run(None, {"x": x})[0])


def _matmul_nbits(onnx: Any, codes: Tensor, bits: int, accuracy_level: int) -> bytes:
    """A model of one MatMulNBits node (its B: out, blocks, block bytes; low bits first)."""
    out, columns = codes.shape
    block, per_byte = 32, 8 // bits
    levels = (codes + (1 << (bits - 1))).to(torch.uint8).view(out, columns // block, -1, per_byte)
    weight = levels[..., 0].clone()
    for i in range(1, per_byte):
        weight |= levels[..., i] << (bits * i)
    scales = torch.full((out * columns // block,), W_POS)
    helper, tensor = onnx.helper, onnx.numpy_helper.from_array
    sizes = {"K": columns, "N": out, "bits": bits, "block_size": block}
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "s"],
        ["y"],
        domain="com.microsoft",
        accuracy_level=accuracy_level,
        **sizes,
    )
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["m", columns])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["m", out])],
        [tensor(weight.numpy(), "w"), tensor(scales.numpy(), "s")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized
