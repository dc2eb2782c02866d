"""ggml's quantized matrix products through ctypes, from a build of llama.cpp, ggml or bitnet.cpp.

Only ggml's public C interface is used, so that a build of any age serves: the types are found by
name. bitnet.cpp's build gives its i2_s kernel through the same interface.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch
from kernels_race import Contender, copies
from kernels_rivals import FOUR_BIT, W_POS, Layer
from torch import Tensor

BITS = {"tq1_0": 1.6875, "tq2_0": 2.0625, "q2_K": 2.625, "q4_0": 4.5, "i2_s": 2.0}
"""Bits a weight of the types to race, by ggml's names; i2_s is bitnet.cpp's."""
NUMBERS = {"tq1_0": 34, "tq2_0": 35, "q2_K": 10, "q4_0": 2, "i2_s": 36}
"""Their numbers; 36 is i2_s in bitnet.cpp's fork alone, so that a build is asked for the name."""
F32 = 0
# Types that hold ternary weights only roughly: q2_K has scales of four bits, and q4_0's levels
# reach from -8 to 7.
LOOSE = {"q2_K": 0.3, "q4_0": 0.1}
SLACK_BYTES = 1 << 20


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class _Plan(ctypes.Structure):
    """The head of ggml_cplan, which has grown at its end over the years."""

    _fields_ = (
        ("work_size", c_size_t),
        ("work_data", c_void_p),
        ("n_threads", c_int),
        ("rest", c_int64 * 32),
    )


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_init": (c_void_p, (_InitParams,)),
    "ggml_free": (None, (c_void_p,)),
    "ggml_type_name": (c_char_p, (c_int,)),
    "ggml_blck_size": (c_int64, (c_int,)),
    "ggml_new_tensor_2d": (c_void_p, (c_void_p, c_int, c_int64, c_int64)),
    "ggml_row_size": (c_size_t, (c_int, c_int64)),
    "ggml_nbytes": (c_size_t, (c_void_p,)),
    "ggml_get_data": (c_void_p, (c_void_p,)),
    "ggml_quantize_chunk": (
        c_size_t,
        (c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p),
    ),
    "ggml_mul_mat": (c_void_p, (c_void_p, c_void_p, c_void_p)),
    "ggml_new_graph": (c_void_p, (c_void_p,)),
    "ggml_build_forward_expand": (None, (c_void_p, c_void_p)),
    "ggml_graph_plan": (_Plan, (c_void_p, c_int, c_void_p)),
    "ggml_graph_compute": (c_int, (c_void_p, c_void_p)),
}


class Ggml:
    """The functions of one build, loaded from its libraries.

    Args:
        path: a folder of a build, searched for libggml*, or one library.

    Raises:
        OSError: nothing there, or not a library for this machine.
        AttributeError: a function of the interface is missing.
    """

    def __init__(self, path: Path) -> None:
        whole = path.resolve()
        self.name = whole.parent.name if whole.name == "build" else whole.name
        found = [path] if path.is_file() else _libraries(path)
        if not found:
            raise OSError(f"no libggml found under {path}")
        libraries = [ctypes.CDLL(str(library)) for library in found]
        self._functions = {name: _function(name, libraries) for name in _SIGNATURES}
        # The first context fills ggml's tables.
        self.free(self.context(SLACK_BYTES))

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["_functions"][f"ggml_{name}"]

    def context(self, size: int) -> Any:
        """A context that holds its tensors' data."""
        return self.init(_InitParams(size, None, False))

    def types(self) -> dict[str, int]:
        """The numbers of the types to race that this build knows, by name."""
        found = {}
        for name, number in NUMBERS.items():
            told = self.type_name(number)
            if told == name.encode():
                found[name] = number
        return found


def _libraries(folder: Path) -> list[Path]:
    """The build's ggml libraries, those that others need first."""
    parts = ("libggml-base", "libggml-cpu", "libggml")
    found = []
    for part in parts:
        for suffix in ("so", "dylib"):
            found += sorted(folder.rglob(f"{part}.{suffix}"))[:1]
    return found


def _function(name: str, libraries: list[ctypes.CDLL]) -> Any:
    for library in libraries:
        function = getattr(library, name, None)
        if function is not None:
            function.restype, function.argtypes = _SIGNATURES[name]
            return function
    raise AttributeError(f"{name} is not in {', '.join(lib._name for lib in libraries)}")


class _Context:
    """Memory for some products of one size; freed with the object.

    They share it, because ggml has a limit on contexts.
    """

    def __init__(self, ggml: Ggml, kind: int, layer: Layer, products: int) -> None:
        out, columns = layer.codes.shape
        values = 4 * layer.batch * (columns + out)
        each = values + out * ggml.row_size(kind, columns) + SLACK_BYTES
        self._ggml = ggml
        self.weight: Any = None  # where the first product's quantized weights lie
        self.handle = ggml.context(products * each)
        if not self.handle:
            raise MemoryError(f"{products * each} bytes")

    def __del__(self) -> None:
        self._ggml.free(self.handle)


class Product:
    """One matrix product's graph, with weights quantized to a type."""

    def __init__(
        self, ggml: Ggml, kind: int, layer: Layer, dense: Tensor, memory: _Context
    ) -> None:
        out, columns = dense.shape
        self._ggml, self._memory = ggml, memory
        context = memory.handle
        weight = ggml.new_tensor_2d(context, kind, columns, out)
        x = ggml.new_tensor_2d(context, F32, columns, layer.batch)
        data = ggml.get_data(weight)
        if memory.weight is None:
            ggml.quantize_chunk(kind, dense.data_ptr(), data, 0, out, columns, None)
            memory.weight = data
        else:
            ctypes.memmove(data, memory.weight, ggml.nbytes(weight))
        ctypes.memmove(ggml.get_data(x), layer.x.data_ptr(), 4 * layer.x.numel())
        product = ggml.mul_mat(context, weight, x)
        self._graph = ggml.new_graph(context)
        ggml.build_forward_expand(self._graph, product)
        floats = (ctypes.c_float * (layer.batch * out)).from_address(ggml.get_data(product))
        self._y = torch.frombuffer(floats, dtype=torch.float32).view(layer.batch, out)
        self._plan = ggml.graph_plan(self._graph, layer.threads, None)
        self._work = ctypes.create_string_buffer(self._plan.work_size + 64)
        self._plan.work_data = ctypes.addressof(self._work)

    def __call__(self) -> Tensor:
        """Compute the product once; (batch, out), valid until the next call."""
        self._ggml.graph_compute(self._graph, ctypes.byref(self._plan))
        return self._y


def contenders(layer: Layer, libraries: list[Ggml]) -> Iterator[Contender]:
    """Each library's products, on symmetric ternary weights."""
    dense = layer.weight(W_POS, W_POS)
    for library in libraries:
        for name, kind in library.types().items():
            if layer.codes.shape[1] % library.blck_size(kind):
                continue
            size = int(layer.codes.numel() * BITS[name] / 8)
            memory = _Context(library, kind, layer, copies(size, layer.cold))
            yield from layer.contender(
                f"{library.name} {name}",
                functools.partial(Product, library, kind, layer, dense, memory),
                Product.__call__,
                size,
                LOOSE.get(name, FOUR_BIT),
                symmetric=True,
            )
