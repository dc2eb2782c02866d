"""The dense parts of a decoding step in native code, for full-precision and ternary networks alike.

One token's normalization, attention and activation take few operations, but each operator of
torch's costs microseconds, more so when its code has to come back from memory behind the weights.
Each function here does what it says wherever it is called; the native code runs on float32 CPU
tensors of which nothing is asked but their values, and torch's operators otherwise: under autograd,
torch.compile and torch.export, tracing, functorch's transforms and dispatch modes.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from ttq_energy.errors import InputError
from ttq_energy.kernels import isa, ops


@functools.cache
def _native() -> ModuleType | None:
    """The compiled kernels; None where they are not built, which full precision can do without."""
    try:
        return isa.native()
    except InputError:
        return None


def applies(x: Tensor, *others: Tensor) -> bool:
    """Whether native code may take the place of torch's operators on these tensors."""
    if not ops.is_plain(x) or x.dtype != torch.float32 or _native() is None:
        return False
    graded = torch.is_grad_enabled()
    return not (graded and x.requires_grad) and all(
        type(t) in (Tensor, torch.nn.Parameter)
        and t.dtype == torch.float32
        and t.is_cpu
        and not (graded and t.requires_grad)
        for t in others
    )


def cache_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Zeros for a cache of keys or values, on huge pages where the CPU has them.

    A step reads the whole cache once, from memory, where small pages cost as much as the reading.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    watched = torch._C._len_torch_dispatch_stack() or torch.compiler.is_compiling()
    if torch.device(device).type == "cpu" and not watched:
        mapped = isa.zeros_on_huge_pages(size)
        if mapped is not None:
            return mapped.view(dtype).view(shape)
    return torch.zeros(shape, dtype=dtype, device=device)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension (arXiv 1910.07467).

    Args:
        x: (..., n).
        weight: (n,).
        epsilon: added to the mean of squares.
    """
    fits = applies(x, weight) and weight.dim() == 1 and weight.shape == x.shape[-1:]
    if not fits or not weight.is_contiguous():
        return functional.rms_norm(x, weight.shape, weight, epsilon)
    native = _native()
    assert native is not None
    x, columns = x.contiguous(), x.shape[-1]
    y = torch.empty_like(x)
    native.rms_norm(
        x.data_ptr(),
        weight.data_ptr(),
        x.numel() // columns if columns else 0,
        columns,
        epsilon,
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y


class RMSNorm(nn.RMSNorm):
    """torch's, by :func:`rms_norm` where it has weights and an epsilon."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) to the same."""
        if self.eps is None or self.weight is None:
            return super().forward(x)
        return rms_norm(x, self.weight, self.eps)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202), of equal shapes."""
    if not applies(gate, up) or gate.shape != up.shape:
        return functional.silu(gate) * up
    native = _native()
    assert native is not None
    gate, up = gate.contiguous(), up.contiguous()
    y = torch.empty_like(gate)
    native.swiglu(
        gate.data_ptr(), up.data_ptr(), gate.numel(), y.data_ptr(), torch.get_num_threads()
    )
    return y


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    position: int,
) -> Tensor | None:
    """Add one token to a cache of keys and values, and attend to all that it then holds.

    Query and key are turned to their position first (rotary embedding, arXiv 2104.09864, pairing
    dimension i with i + head_dim / 2).

    Args:
        query: (N, 1, heads * head_dim), the heads side by side.
        key, value: (N, 1, kv_heads * head_dim); heads / kv_heads neighbouring queries share one.
        cos, sin: (positions, head_dim), the rotary tables.
        keys, values: (N, kv_heads, capacity, head_dim), the cache; changed at ``position``.
        position: of the token: how many the cache holds before it.

    Returns:
        (N, 1, heads * head_dim); None, and the cache unchanged, where the native code does not
        serve these tensors.
    """
    if not applies(query, key, value, cos, sin, keys, values):
        return None
    batch, kv_heads, capacity, head_dim = keys.shape
    width = query.shape[-1]
    heads = width // head_dim
    fits = (
        query.shape == (batch, 1, heads * head_dim)
        and key.shape == value.shape == (batch, 1, kv_heads * head_dim)
        and values.shape == keys.shape
        and cos.shape == sin.shape
        and cos.shape[-1] == head_dim
        and heads % kv_heads == 0
        and head_dim % 2 == 0
        and 0 <= position < min(capacity, cos.shape[0])
        and keys.is_contiguous()
        and values.is_contiguous()
        and cos.is_contiguous()
        and sin.is_contiguous()
    )
    if not fits or keys.numel() == 0:
        return None
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    out = torch.empty_like(query)
    row = 4 * position * head_dim
    native = _native()
    assert native is not None
    native.attend_step(
        query.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        cos.data_ptr() + row,
        sin.data_ptr() + row,
        keys.data_ptr(),
        values.data_ptr(),
        batch,
        heads,
        kv_heads,
        head_dim,
        capacity,
        position,
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out
