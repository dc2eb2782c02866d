"""Modules that run on packed ternary weights, as ``convert`` puts them in a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from ttq_energy.errors import InputError
from ttq_energy.kernels import gpu, isa, ops, packing, reference
from ttq_energy.kernels.functional import Pair, check_bias, pair
from ttq_energy.kernels.packing import PackedWeight

Scale = float | Tensor


class TernaryModule(nn.Module):
    """What packed layers share: weights, scales, bias, and what batch-norm folding adds.

    Attributes:
        packed: uint8 codes at two bits each.
        w_pos, w_neg: float32 scales, one value or one for each output.
        output_scale: float32 (out,) multiplier of the outputs before the bias, from a folded
            batch norm; None for none.
        bias: float32 (out,) or None.
        relu: whether ReLU follows, fused.
        activations: "fp32" or "int8".
    """

    packed: Tensor
    w_pos: Tensor
    w_neg: Tensor
    scale_pos: Tensor
    scale_neg: Tensor
    bias: Tensor | None
    output_scale: Tensor | None

    def __init__(self, weight: PackedWeight, bias: Tensor | None) -> None:
        super().__init__()
        check_bias(bias, weight.shape[0])
        self.shape = weight.shape
        self.activations = weight.activations
        self.relu = False
        self.register_buffer("packed", weight.packed)
        self.register_buffer("w_pos", weight.w_pos)
        self.register_buffer("w_neg", weight.w_neg)
        self.register_buffer("scale_pos", weight.scale_pos, persistent=False)
        self.register_buffer("scale_neg", weight.scale_neg, persistent=False)
        # Last, because torch.export 2.13 miscounts buffers that follow one that is None.
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())
        self.register_buffer("output_scale", None)

    def codes(self) -> Tensor:
        """The int8 codes in {-1, 0, 1}, in the shape that they were given."""
        return packing.unpack_codes(self.packed, self.shape)

    def effective_weight(self) -> Tensor:
        """The float32 weights: w_pos where the code is +1, -w_neg where it is -1, else 0."""
        return reference.effective_weight(self.codes(), self.w_pos, self.w_neg)

    @property
    def weight_bytes(self) -> int:
        """Bytes stored for the weights: packed codes and their scales."""
        return self.packed.numel() + 4 * (self.w_pos.numel() + self.w_neg.numel())

    @property
    def nonzeros_per_output(self) -> Tensor:
        """int64 (out,): how many weights of each output are not zero."""
        return self.codes().flatten(1).count_nonzero(1)

    @property
    def kernel(self) -> str:
        """The code that runs, for reports."""
        if self.packed.is_cuda and gpu.usable():
            return gpu.ran(self.packed) or "triton 2-bit, not run yet"
        if self.packed.device.type != "cpu":
            return f"ttq-energy {self.activations} reference (decoded, {self.packed.device.type})"
        return f"ttq-energy {self.activations} packed ({isa.active()})"

    def fold_output(self, scale: Tensor, shift: Tensor) -> None:
        """Make every output y of channel o into scale[o] * y + shift[o], both float32 (out,)."""
        bias = shift if self.bias is None else self.bias * scale + shift
        self.bias = bias.detach().float().clone()
        combined = scale if self.output_scale is None else self.output_scale * scale
        self.output_scale = combined.detach().float().clone()
        self._refresh_scales()

    def _refresh_scales(self) -> None:
        multiplier = 1.0 if self.output_scale is None else self.output_scale
        out = self.shape[0]
        self.scale_pos = (self.w_pos * multiplier).expand(out).contiguous()
        self.scale_neg = (self.w_neg * multiplier).expand(out).contiguous()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Only the CPU's kernels read the layouts of their own.
        if fn(self.packed.new_empty(0)).device.type != "cpu":
            self.packed = packing.to_portable(self.packed, self.shape)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._prefer_native()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._prefer_native()

    def _prefer_native(self) -> None:
        if type(self.packed) is Tensor and self.packed.device.type == "cpu":
            self.packed = packing.to_native(self.packed, self.shape, self.activations)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # What is saved loads under every instruction set.
        destination[prefix + "packed"] = packing.to_portable(self.packed, self.shape)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        stored = state_dict.get(prefix + "packed")
        if stored is not None and packing.is_portable(stored, self.shape):
            self.packed = packing.to_portable(self.packed, self.shape)
        for name in ("w_pos", "w_neg", "output_scale", "bias"):
            stored, own = state_dict.get(prefix + name), getattr(self, name)
            if stored is not None and (own is None or own.shape != stored.shape):
                # One scale may replace one for each output, and folded parts may appear.
                if stored.dim() and tuple(stored.shape) != self.shape[:1]:
                    continue
                setattr(self, name, stored.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._prefer_native()
        self._refresh_scales()

    def extra_repr(self) -> str:
        """Shape, activations and what is fused."""
        fused = ", relu" if self.relu else ""
        return f"{tuple(self.shape)}, activations={self.activations}{fused}"


class TernaryLinear(TernaryModule):
    """``nn.Linear`` with ternary weights (ternary_linear says which kernel runs when).

    Args:
        codes: int8 (out, in) in {-1, 0, 1}.
        w_pos, w_neg: scales, a number or (out,).
        bias: (out,) or None.
        activations: "fp32" or "int8".
    """

    def __init__(
        self,
        codes: Tensor,
        w_pos: Scale,
        w_neg: Scale,
        bias: Tensor | None = None,
        activations: str = "fp32",
    ) -> None:
        super().__init__(packing.pack_linear(codes, w_pos, w_neg, activations), bias)
        self.out_features, self.in_features = codes.shape

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(..., in) to (..., out); ``residual`` (..., out) is added before a fused ReLU."""
        if x.shape[-1] != self.in_features:
            raise InputError(f"x: expected shape (..., {self.in_features}), got {tuple(x.shape)}")
        tensors = self._buffers  # nn.Module's own look-up costs a microsecond a name
        return ops.linear(
            x,
            tensors["packed"],  # type: ignore[arg-type]
            tensors["scale_pos"],  # type: ignore[arg-type]
            tensors["scale_neg"],  # type: ignore[arg-type]
            tensors["bias"],
            residual,
            self.out_features,
            self.activations == "int8",
            self.relu,
        )


class TernaryConv2d(TernaryModule):
    """``nn.Conv2d`` (zero padding) with ternary weights.

    Args:
        codes: int8 (out, in/groups, kh, kw) in {-1, 0, 1}.
        w_pos, w_neg, bias, activations: as in :class:`TernaryLinear`.
        stride, padding, dilation, groups: as in nn.Conv2d.
    """

    def __init__(
        self,
        codes: Tensor,
        w_pos: Scale,
        w_neg: Scale,
        bias: Tensor | None = None,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        activations: str = "fp32",
    ) -> None:
        super().__init__(packing.pack_conv2d(codes, w_pos, w_neg, activations), bias)
        if groups < 1 or codes.shape[0] % groups:
            raise InputError(
                f"groups: expected a divisor of {codes.shape[0]} outputs, got {groups}"
            )
        self.stride = pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        self.dilation = pair(dilation, "dilation", 1)
        self.groups = groups
        self.out_channels = codes.shape[0]
        self.in_channels = codes.shape[1] * groups
        self.kernel_size = tuple(codes.shape[2:])

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(n, in, h, w) to (n, out, oh, ow), contiguous; ``residual`` as in TernaryLinear."""
        if x.dim() == 3:
            skip = None if residual is None else residual.unsqueeze(0)
            return TernaryConv2d.forward(self, x.unsqueeze(0), skip).squeeze(0)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise InputError(
                f"x: expected shape (n, {self.in_channels}, h, w), got {tuple(x.shape)}"
            )
        tensors = self._buffers
        return ops.conv2d(
            x,
            tensors["packed"],  # type: ignore[arg-type]
            tensors["scale_pos"],  # type: ignore[arg-type]
            tensors["scale_neg"],  # type: ignore[arg-type]
            tensors["bias"],
            residual,
            self.shape,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.activations == "int8",
            self.relu,
        )


class TernaryConv1d(TernaryConv2d):
    """``nn.Conv1d`` (zero padding) with ternary weights.

    Args:
        codes: int8 (out, in/groups, kernel) in {-1, 0, 1}.
        w_pos, w_neg, bias, activations: as in :class:`TernaryLinear`.
        stride, padding, dilation, groups: as in nn.Conv1d.
    """

    def __init__(
        self,
        codes: Tensor,
        w_pos: Scale,
        w_neg: Scale,
        bias: Tensor | None = None,
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        activations: str = "fp32",
    ) -> None:
        if codes.dim() != 3:
            raise InputError(
                "codes: expected int8 of shape (out, in/groups, kernel),"
                f" got shape {tuple(codes.shape)}"
            )
        super().__init__(
            codes.unsqueeze(2),
            w_pos,
            w_neg,
            bias,
            (1, _single(stride)),
            (0, _single(padding)),
            (1, _single(dilation)),
            groups,
            activations,
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(n, in, length) or (in, length) to (n, out, length') or (out, length')."""
        skip = None if residual is None else residual.unsqueeze(-2)
        return super().forward(x.unsqueeze(-2), skip).squeeze(-2)

    def codes(self) -> Tensor:
        """The int8 codes (out, in/groups, kernel)."""
        return super().codes().squeeze(2)


def _single(value: int | tuple[int]) -> int:
    return value if isinstance(value, int) else value[0]


def __getattr__(name: str) -> Any:
    # recurrent builds on this module; reached from here too, so that all modules have one home.
    if name in ("TernaryLSTM", "TernaryGRU"):
        from ttq_energy.kernels import recurrent

        return getattr(recurrent, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
