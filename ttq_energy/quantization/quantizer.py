"""The quantizer of one weight: a parametrization that holds the scales and the gradients' rules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ttq_energy.errors import InputError
from ttq_energy.quantization import rules
from ttq_energy.quantization.configs import TTQ, Config, DoReFa
from ttq_energy.quantization.rules import Ternary


class Quantizer(nn.Module):
    """Maps a latent weight to its quantized value; ``torch.nn.utils.parametrize`` calls it.

    While a training step runs, the weight is quantized once however often it is read (by a
    recurrent layer, or again by gradient checkpointing): the result is kept until its backward
    pass, or until the version counter of the weight or a scale moves.

    Attributes:
        config: the rule.
        parts: layers stacked along the weight's first dimension.
        w_pos, w_neg: TTQ's scales, (blocks,); parameters where they are learned, else buffers.
            With ``symmetric`` both are one parameter, ``w_pos``. Training keeps their magnitude:
            the scale in use is its absolute value, so it cannot change sign.
    """

    w_pos: Tensor
    w_neg: Tensor | None

    def __init__(self, config: Config, weight: Tensor, parts: int = 1) -> None:
        super().__init__()
        self.config, self.parts = config, parts
        self._kept = _Kept()
        if isinstance(config, TTQ):
            with torch.no_grad():
                w_pos, w_neg = rules.initial_scales(config, self._blocks(weight))
            names = {"w_pos": w_pos} if config.symmetric else {"w_pos": w_pos, "w_neg": w_neg}
            for name, scale in names.items():
                if config.learn_scales:
                    self.register_parameter(name, nn.Parameter(scale))
                else:
                    self.register_buffer(name, scale)

    def forward(self, weight: Tensor) -> Tensor:
        """The quantized weight, of the shape and dtype of ``weight``."""
        if isinstance(self.config, DoReFa) and self.config.bits > 1:
            return rules.fake_quantize(self.config, weight)
        w_pos, w_neg = self._scales()
        if torch.compiler.is_compiling():
            return self._traced(weight, w_pos, w_neg)
        state = self._kept.get(weight, w_pos, w_neg)
        if state is None:
            with torch.no_grad():
                ternary = self.ternary(weight)
                state = _State(ternary, ternary.values().view_as(weight))
            if torch.is_grad_enabled() and weight.requires_grad:
                self._kept.put(state, weight, w_pos, w_neg)
        quantized: Tensor = _Quantize.apply(  # type: ignore[no-untyped-call]
            weight, w_pos, w_neg, self, state
        )
        return quantized

    def _traced(self, weight: Tensor, w_pos: Tensor | None, w_neg: Tensor | None) -> Tensor:
        """The same values and gradients in plain operators, which tracing compilers follow."""
        ternary = self.ternary(weight)
        blocks = self._blocks(weight)
        if w_pos is not None and w_neg is not None:
            ternary = ternary._replace(w_pos=w_pos.abs()[:, None], w_neg=w_neg.abs()[:, None])
        one = torch.ones_like(blocks)
        factor = rules.latent_gradient(self.config, blocks, ternary, one).detach()
        straight_through = (blocks - blocks.detach()) * factor
        return (ternary.values() + straight_through).view_as(weight)

    def ternary(self, weight: Tensor) -> Ternary:
        """Signs and scales of the latent weight, blocks by elements.

        Raises:
            InputError: the weights of this quantizer are not ternary.
        """
        if not rules.is_ternary(self.config):
            raise InputError(
                f"{self.config}: its weights take more than three values; only ternary and binary "
                "weights can be packed"
            )
        w_pos, w_neg = self._scales()
        columns = [None if scale is None else scale.detach()[:, None] for scale in (w_pos, w_neg)]
        return rules.ternarize(self.config, self._blocks(weight.detach()), *columns)

    def scales_equal(self) -> bool:
        """Whether Wp and Wn are the same numbers, by the rule or as they stand now."""
        w_pos, w_neg = self._scales()
        if w_pos is None or w_neg is None or w_pos is w_neg:
            return rules.scales_equal(self.config)
        return torch.equal(w_pos.abs(), w_neg.abs())

    def extra_repr(self) -> str:
        return repr(self.config)

    def _blocks(self, weight: Tensor) -> Tensor:
        return weight.reshape(rules.block_count(self.config, weight.shape[0], self.parts), -1)

    def _scales(self) -> tuple[Tensor | None, Tensor | None]:
        if not isinstance(self.config, TTQ):
            return None, None
        return self.w_pos, self.w_pos if self.config.symmetric else self.w_neg


class _State:
    """One quantized weight and what its backward pass needs."""

    def __init__(self, ternary: Ternary, values: Tensor) -> None:
        self.ternary, self.values = ternary, values


class _Kept:
    """The state of the current step; a copy of a model begins with nothing kept."""

    def __init__(self) -> None:
        self._state: _State | None = None
        self._key: tuple[Any, ...] = ()

    def get(self, *tensors: Tensor | None) -> _State | None:
        return self._state if self._state and self._key == self._key_of(tensors) else None

    def put(self, state: _State, *tensors: Tensor | None) -> None:
        self._state, self._key = state, self._key_of(tensors)

    def drop(self) -> None:
        self._state = None

    @staticmethod
    def _key_of(tensors: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
        # An inference tensor has no version counter; it is never kept, since it needs no gradient.
        return tuple(
            (id(t), t.data_ptr(), t.dtype, t._version)
            for t in tensors
            if t is not None and not t.is_inference()
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kept:
        return _Kept()

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()


class _Quantize(torch.autograd.Function):
    """Quantization with the published gradients.

    Nothing is saved by autograd itself, so one forward pass can be followed by several backward
    ones, as in gradient accumulation and checkpointing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        w_pos: Tensor | None,
        w_neg: Tensor | None,
        quantizer: Quantizer,
        state: _State,
    ) -> Tensor:
        ctx.quantizer, ctx.state = quantizer, state
        ctx.weight, ctx.scales = weight.detach(), (w_pos, w_neg)
        return state.values.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        quantizer, ternary = ctx.quantizer, ctx.state.ternary
        quantizer._kept.drop()
        blocks = gradient.reshape(ternary.positive.shape)
        latent = w_pos = w_neg = None
        if ctx.needs_input_grad[0]:
            latent = rules.latent_gradient(
                quantizer.config, ctx.weight.reshape(blocks.shape), ternary, blocks
            ).view_as(gradient)
        if ctx.needs_input_grad[1]:
            w_pos, w_neg = (
                torch.where(raw < 0, -total.flatten(), total.flatten())
                for raw, total in zip(
                    ctx.scales, rules.scale_gradients(ternary, blocks), strict=True
                )
            )
        return latent, w_pos, w_neg, None, None
