"""Packed ternary weights: what ``pack_linear`` and ``pack_conv2d`` return."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.kernels import isa, reference

ACTIVATIONS = ("fp32", "int8")
LARGEST_COLUMNS = 1 << 20


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """Ternary weights at two bits each, with their scales.

    Attributes:
        packed: uint8 bytes, laid out as :func:`reference.pack_matrix` says, or, on the CPU, as its
            kernels like best; :func:`to_portable` gives the former.
        w_pos, w_neg: float32 scales as given, one value or one for each output channel.
        scale_pos, scale_neg: float32 (out,), what the kernels multiply the two sums by.
        shape: shape of the codes, (out, in) or (out, in/groups, kh, kw).
        activations: "fp32" or "int8".
    """

    packed: Tensor
    w_pos: Tensor
    w_neg: Tensor
    scale_pos: Tensor
    scale_neg: Tensor
    shape: tuple[int, ...]
    activations: str

    @property
    def weight_bytes(self) -> int:
        """Bytes stored for the weights: packed codes and scales."""
        return self.packed.numel() + 4 * (self.w_pos.numel() + self.w_neg.numel())

    def codes(self) -> Tensor:
        """The int8 codes in {-1, 0, 1}, of ``shape``."""
        return unpack_codes(self.packed, self.shape)

    def unpack(self) -> tuple[Tensor, Tensor, Tensor]:
        """The codes, w_pos and w_neg, exactly as packed."""
        return self.codes(), self.w_pos, self.w_neg

    def effective_weight(self) -> Tensor:
        """The float32 weights that the codes and scales stand for."""
        return reference.effective_weight(self.codes(), self.w_pos, self.w_neg)


def unpack_codes(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The int8 codes of ``shape`` held in packed bytes."""
    if len(shape) == 2:
        return reference.unpack_matrix(to_portable(packed, shape), shape[0], shape[1])
    columns = reference.conv_columns(shape[1], shape[2] * shape[3])
    if not is_portable(packed, shape):
        return isa.unpack_conv2d(packed, shape, columns)
    return reference.matrix_to_conv(reference.unpack_matrix(packed, shape[0], columns), shape)


def is_portable(packed: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether packed bytes are in the layout of :func:`reference.pack_matrix`."""
    columns = shape[1] if len(shape) == 2 else reference.conv_columns(shape[1], shape[2] * shape[3])
    return packed.numel() == reference.packed_bytes(shape[0], columns)


def to_portable(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Packed bytes in the layout of :func:`reference.pack_matrix`, which every device reads."""
    if is_portable(packed, shape):
        return packed
    if len(shape) == 2:
        return isa.pack(isa.unpack(packed, *shape)).to(packed.device)
    return isa.pack(reference.conv_to_matrix(unpack_codes(packed, shape))).to(packed.device)


def to_native(packed: Tensor, shape: tuple[int, ...], activations: str) -> Tensor:
    """Packed bytes on the CPU, in any layout, in the one that its kernels like best."""
    int8 = activations == "int8"
    if len(shape) != 2:
        columns = reference.conv_columns(shape[1], shape[2] * shape[3])
        if packed.numel() == isa.conv2d_bytes(shape, columns, int8):
            return isa.settled(packed)
        return _pack_conv2d(unpack_codes(packed, shape), int8)
    if packed.numel() == isa.native().linear_bytes(*shape, int8):
        return isa.settled(packed)
    return isa.pack_linear(isa.unpack(packed, *shape), int8)


def _pack_conv2d(codes: Tensor, int8: bool) -> Tensor:
    columns = reference.conv_columns(codes.shape[1], codes.shape[2] * codes.shape[3])
    packed = isa.pack_conv2d(codes, columns, int8)
    return isa.pack(reference.conv_to_matrix(codes).contiguous()) if packed is None else packed


def _check_codes(codes: Tensor, dimensions: str, rank: int) -> None:
    if not isinstance(codes, Tensor):
        raise InputError(f"codes: expected a tensor, got {type(codes).__name__}")
    if codes.dim() != rank or codes.dtype != torch.int8:
        raise InputError(
            f"codes: expected int8 of shape {dimensions},"
            f" got {codes.dtype} of shape {tuple(codes.shape)}"
        )
    if codes.numel() == 0:
        raise InputError(f"codes: expected every size at least 1, got {tuple(codes.shape)}")
    low, high = (int(bound) for bound in codes.aminmax())
    if low < -1 or high > 1:
        raise InputError(f"codes: expected values -1, 0 and 1, got {low if low < -1 else high}")


def _scale(value: float | Tensor, name: str, out: int, device: torch.device) -> Tensor:
    try:
        scale = torch.as_tensor(value, dtype=torch.float32, device=device).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name}: expected a number or a tensor of {out} numbers") from None
    if scale.dim() and scale.numel() == out:
        scale = scale.flatten()
    elif scale.numel() == 1:
        scale = scale.reshape(())
    else:
        raise InputError(
            f"{name}: expected a number or {out} numbers, one for each output channel,"
            f" got shape {tuple(scale.shape)}"
        )
    if not bool(((scale >= 0) & scale.isfinite()).all()):
        raise InputError(f"{name}: expected finite values of 0 or more")
    return scale


def _pack(
    codes: Tensor,
    w_pos: float | Tensor,
    w_neg: float | Tensor,
    activations: str,
) -> PackedWeight:
    if activations not in ACTIVATIONS:
        raise unknown_name("activations", activations, ACTIVATIONS)
    linear = codes.dim() == 2
    out, columns = codes.shape[0], codes[0].numel()
    if not linear:
        columns = reference.conv_columns(codes.shape[1], codes[0, 0].numel())
    if columns > LARGEST_COLUMNS:
        raise InputError(
            f"codes: expected at most {LARGEST_COLUMNS} inputs to an output, got {columns}"
        )
    pos = _scale(w_pos, "w_pos", out, codes.device)
    neg = _scale(w_neg, "w_neg", out, codes.device)
    if codes.device.type != "cpu":
        packed = reference.pack_matrix(codes if linear else reference.conv_to_matrix(codes))
    elif linear:
        packed = isa.pack_linear(codes.contiguous(), activations == "int8")
    else:
        packed = _pack_conv2d(codes, activations == "int8")
    return PackedWeight(
        packed,
        pos,
        neg,
        pos.expand(out).contiguous(),
        neg.expand(out).contiguous(),
        tuple(codes.shape),
        activations,
    )


def pack_linear(
    codes: Tensor, w_pos: float | Tensor, w_neg: float | Tensor, activations: str = "fp32"
) -> PackedWeight:
    """Pack the ternary weights of a linear layer.

    Args:
        codes: int8 (out, in) in {-1, 0, 1}.
        w_pos, w_neg: the values of the +1 and (negated) of the -1 codes, 0 or more; one number,
            or a tensor (out,) with one for each output.
        activations: "fp32" computes with float32 activations; "int8" quantizes each input row
            (:func:`ttq_energy.kernels.reference.quantize_rows`).

    Raises:
        InputError: another shape, dtype, code or scale, or an unknown ``activations``.
    """
    _check_codes(codes, "(out, in)", 2)
    return _pack(codes, w_pos, w_neg, activations)


def pack_conv2d(
    codes: Tensor,
    w_pos: float | Tensor,
    w_neg: float | Tensor,
    activations: str = "fp32",
) -> PackedWeight:
    """Pack the ternary weights of a two-dimensional convolution.

    Args:
        codes: int8 (out, in/groups, kh, kw) in {-1, 0, 1}.
        w_pos, w_neg, activations: as in :func:`pack_linear`; "int8" quantizes each image with
            one scale.

    Raises:
        InputError: another shape, dtype, code or scale, or an unknown ``activations``.
    """
    _check_codes(codes, "(out, in/groups, kh, kw)", 4)
    return _pack(codes, w_pos, w_neg, activations)
