"""The operators on a GPU: shapes checked, the fastest measured path taken, what ran noted."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ttq_energy.errors import InputError
from ttq_energy.kernels.gpu import launch
from ttq_energy.kernels.gpu.launch import Ending, Geometry
from ttq_energy.kernels.gpu.layout import DeviceWeight
from ttq_energy.kernels.gpu.paths import Path, Problem
from ttq_energy.kernels.gpu.tuning import Run, tuner_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BARE = Ending()
"""Paths are timed so: what follows the product is the same for all, and is compiled once."""


def linear(
    x: Tensor,
    weight: DeviceWeight,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    relu: bool = False,
    path: Path | None = None,
) -> Tensor:
    """Apply packed ternary weights (out, in) to activations.

    Args:
        x: (..., in), float32, bfloat16 or float16. Sums are float32; float32 activations are not
            rounded. With "int8" weights each row is quantized as in
            :func:`ttq_energy.kernels.reference.quantize_rows` and the sums are exact integers.
        weight: on x's device.
        bias: (out,) or None.
        residual: (..., out), added before ReLU, or None.
        relu: apply ReLU last.
        path: runs this one instead of the fastest measured.

    Returns:
        (..., out), of x's dtype.

    Raises:
        InputError: shapes, types or devices do not fit.
    """
    _check(x, weight, 2)
    out, columns = weight.shape
    if x.dim() < 1 or x.shape[-1] != columns:
        raise InputError(f"x: expected shape (..., {columns}), got {tuple(x.shape)}")
    shape = (*x.shape[:-1], out)
    rows = x.reshape(-1, columns)
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    if rows.shape[0] == 0:
        return x.new_empty(shape)
    if residual is not None:
        residual = residual.reshape(-1, out).contiguous()
    ending = Ending(bias, residual, relu)
    int8 = weight.activations == "int8"
    problem = _problem("linear", x, weight, rows.shape[0], out, columns)
    with _on(x.device):
        values, scale = launch.quantize_rows(rows, weight) if int8 else (rows, None)

        def run(path: Path, ending: Ending = BARE) -> Tensor:
            y = torch.empty(rows.shape[0], out, dtype=x.dtype, device=x.device)
            return launch.linear(path, values, scale, weight, ending, y)

        chosen = path or _chosen(x.device, weight, problem, run)
        return run(chosen, ending).view(shape)


def conv2d(
    x: Tensor,
    weight: DeviceWeight,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    relu: bool = False,
    path: Path | None = None,
) -> Tensor:
    """Convolve with packed ternary weights (out, in/groups, kh, kw), zero padding.

    Args:
        x: (n, in, h, w) in either memory format; channels-last costs no copy. With "int8"
            weights each image is quantized with one scale.
        stride, padding, dilation: (height, width).
        weight, bias, residual, groups, relu, path: as in :func:`linear` and torch's conv2d.

    Returns:
        (n, out, oh, ow) of x's dtype, channels-last in memory.

    Raises:
        InputError: shapes, types or devices do not fit.
    """
    _check(x, weight, 4)
    out, channels, *kernel = weight.shape
    if x.dim() != 4 or x.shape[1] != channels * groups or out % groups:
        raise InputError(
            f"x: expected shape (n, {channels * groups}, h, w) and groups that divide {out},"
            f" got {tuple(x.shape)} and {groups} groups"
        )
    geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation), groups)
    size = geometry.output_size((x.shape[2], x.shape[3]), (kernel[0], kernel[1]))
    if min(size) < 1:
        raise InputError(f"x: {tuple(x.shape[2:])} is smaller than the kernel {tuple(kernel)}")
    last = _channels_last(x)
    shape = (x.shape[0], *size, out)
    if x.shape[0] == 0:
        return x.new_empty(shape).permute(0, 3, 1, 2)
    ending = Ending(bias, None if residual is None else _channels_last(residual), relu)
    int8 = weight.activations == "int8"
    pixels, rows = shape[0] * size[0] * size[1], out // groups
    detail = (
        f"{channels}x{kernel[0]}x{kernel[1]} {x.shape[2]}x{x.shape[3]} s{geometry.stride}"
        f" p{geometry.padding} d{geometry.dilation}"
    )
    problem = _problem("conv2d", x, weight, pixels, rows, weight.columns, groups, detail)
    with _on(x.device):
        values, scale = launch.quantize_images(last, weight, groups) if int8 else (last, None)

        def run(path: Path, ending: Ending = BARE) -> Tensor:
            y = torch.empty(shape, dtype=x.dtype, device=x.device)
            return launch.conv2d(path, values, scale, weight, geometry, ending, y)

        chosen = path or _chosen(x.device, weight, problem, run)
        return run(chosen, ending).permute(0, 3, 1, 2)


def lstm_step(
    gates: Tensor,
    h: Tensor,
    c: Tensor,
    weight: DeviceWeight,
    bias: Tensor | None = None,
    *,
    path: Path | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of torch.nn.LSTM with a packed ternary hidden matrix.

    Args:
        gates: (batch, 4 hidden), the input's share of the gates i, f, g, o before their
            activations, biases included.
        h, c: (batch, hidden), the states before the step.
        weight: the hidden matrix (4 hidden, hidden).
        bias: (4 hidden,) added to the gates, or None.
        path: runs this one instead of the fastest measured.

    Returns:
        The states after the step, of h's and c's dtypes.

    Raises:
        InputError: shapes, types or devices do not fit.
    """
    _check(h, weight, 2)
    rows, hidden = weight.shape
    batch = h.shape[0]
    if rows != 4 * hidden or h.shape != (batch, hidden) or c.shape != h.shape:
        raise InputError(
            f"h, c: expected (batch, {hidden}) for a hidden matrix {(rows, hidden)},"
            f" got {tuple(h.shape)} and {tuple(c.shape)}"
        )
    if tuple(gates.shape) != (batch, rows):
        raise InputError(f"gates: expected {(batch, rows)}, got {tuple(gates.shape)}")
    h, c, gates = h.contiguous(), c.contiguous(), gates.contiguous()
    problem = _problem("lstm_step", h, weight, batch, rows, hidden)

    def run(path: Path) -> tuple[Tensor, Tensor]:
        if path.kernel == "linear":
            return launch.lstm_cell(linear(h, weight, bias, gates), c, h.dtype)
        return launch.lstm_step(path, h, gates, c, weight, bias)

    with _on(h.device):
        chosen = path or _chosen(h.device, weight, problem, run)
        return run(chosen)


def lstm(
    x: Tensor,
    weight_ih: DeviceWeight,
    weight_hh: DeviceWeight,
    bias: Tensor | None = None,
    h: Tensor | None = None,
    c: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One layer of torch.nn.LSTM over a sequence, in one direction.

    The input matrix is applied to all steps at once; each step then runs :func:`lstm_step`.

    Args:
        x: (steps, batch, in).
        weight_ih, weight_hh: (4 hidden, in) and (4 hidden, hidden).
        bias: (4 hidden,), the sum of both of torch's biases, or None.
        h, c: (batch, hidden) states to start from; None for zeros.

    Returns:
        The hidden states (steps, batch, hidden) and the last (h, c).
    """
    gates = linear(x, weight_ih, bias)
    hidden = weight_hh.shape[1]
    h = x.new_zeros(x.shape[1], hidden) if h is None else h
    c = x.new_zeros(x.shape[1], hidden) if c is None else c
    outputs = []
    for step in gates.unbind(0):
        h, c = lstm_step(step, h, c, weight_hh)
        outputs.append(h)
    return torch.stack(outputs), (h, c)


def _on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a GPU the current one: Triton launches there, wherever its arguments lie."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


def _channels_last(x: Tensor) -> Tensor:
    """(n, h, w, channels), contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _check(x: Tensor, weight: DeviceWeight, rank: int) -> None:
    if len(weight.shape) != rank:
        raise InputError(f"weight: expected codes of {rank} dimensions, got {weight.shape}")
    if x.dtype not in DTYPES:
        raise InputError(f"x: expected float32, bfloat16 or float16, got {x.dtype}")
    if x.device != weight.device:
        raise InputError(f"weight: lies on {weight.device}, but x on {x.device}")


def _problem(
    op: str,
    x: Tensor,
    weight: DeviceWeight,
    batch: int,
    rows: int,
    columns: int,
    groups: int = 1,
    detail: str = "",
) -> Problem:
    return Problem(
        op,
        str(x.dtype).removeprefix("torch."),
        weight.activations == "int8",
        batch,
        rows,
        columns,
        weight.group,
        weight.chunks,
        weight.symmetric,
        groups,
        detail,
    )


def _chosen(device: torch.device, weight: DeviceWeight, problem: Problem, run: Run) -> Path:
    """The path for a problem; its name is noted for reports."""
    tuner = tuner_of(device)
    path = tuner.choose(problem, run)
    key, ran = problem.key, weight.ran
    if next(reversed(ran), None) != key:
        name = path.describe(problem.dtype, problem.int8)
        ran.pop(key, None)  # the last one is what ran last
        ran[key] = name if tuner.timed(problem) else f"{name}, not tuned"
    return path
