"""LSTM and GRU whose weight matrices are packed ternary ones, or left dense one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.kernels import gpu, ops, stacks
from ttq_energy.kernels.modules import Scale, TernaryLinear
from ttq_energy.kernels.naming import describe

Ternary = tuple[Tensor, Scale, Scale]


class _Recurrence(nn.Module):
    """One layer in one direction: the input and the hidden matrix, each with its bias."""

    def __init__(self, ih: nn.Module, hh: nn.Module) -> None:
        super().__init__()
        self.ih = ih
        self.hh = hh

    def hidden(self, h: Tensor, addend: Tensor | None) -> Tensor:
        """The hidden matrix's product, plus ``addend``."""
        if isinstance(self.hh, TernaryLinear):
            y: Tensor = self.hh(h, addend)
            return y
        y = self.hh(h)
        return y if addend is None else y + addend


class _TernaryRecurrent(nn.Module):
    """The parts that LSTM and GRU share: layers, directions and the call signature of torch's.

    Dropout between layers, a matter of training, is left out.
    """

    gates: int
    dense_type: type[nn.RNNBase]

    def __init__(
        self,
        parameters: Mapping[str, Tensor | Ternary],
        *,
        num_layers: int = 1,
        batch_first: bool = False,
        bidirectional: bool = False,
        activations: str = "fp32",
    ) -> None:
        """Build from torch's parameter names.

        Args:
            parameters: weight_ih_l0, weight_hh_l0, bias_ih_l0, ..., with _reverse for the
                second direction, as torch names and shapes them; a weight is a float tensor,
                which stays dense, or a tuple (codes int8, w_pos, w_neg).
            num_layers, batch_first, bidirectional: as in torch.
            activations: "fp32" or "int8" for the ternary matrices.

        Raises:
            InputError: a parameter is missing or unknown.
        """
        super().__init__()
        suffixes = ("", "_reverse") if bidirectional else ("",)
        names = [f"l{layer}{suffix}" for layer in range(num_layers) for suffix in suffixes]
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self.activations = activations
        self._stack = stacks.RecurrentStack()
        known = {
            f"{kind}_{side}_{name}"
            for kind in ("weight", "bias")
            for side in ("ih", "hh")
            for name in names
        }
        for given in parameters:
            if given not in known:
                raise unknown_name("parameter", given, known)
        self.recurrences = nn.ModuleDict(
            {
                name: _Recurrence(
                    _matrix(parameters, f"ih_{name}", activations),
                    _matrix(parameters, f"hh_{name}", activations),
                )
                for name in names
            }
        )
        first = self._recurrence(0, False)
        self.input_size: int = first.ih.in_features  # type: ignore[assignment]
        self.hidden_size: int = first.hh.in_features  # type: ignore[assignment]

    @classmethod
    def from_dense(
        cls, dense: nn.RNNBase, ternary: Mapping[str, Ternary], activations: str = "fp32"
    ) -> Self:
        """The ternary form of a torch module: the named weights ternary, the rest as they are.

        Args:
            dense: an nn.LSTM (without projection) or nn.GRU to match this class.
            ternary: torch's weight names to (codes, w_pos, w_neg).
            activations: "fp32" or "int8".

        Raises:
            InputError: another kind of module, or an unknown weight name.
        """
        if not isinstance(dense, cls.dense_type):
            expected = cls.dense_type.__name__
            raise InputError(f"dense: expected nn.{expected}, got {type(dense).__name__}")
        if dense.proj_size:
            raise InputError("dense: an LSTM with proj_size has no ternary kernel")
        parameters: dict[str, Tensor | Ternary] = {
            name: parameter.detach() for name, parameter in dense.named_parameters()
        }
        for name in ternary:
            if name not in parameters:
                raise unknown_name("weight", name, parameters)
        return cls(
            {**parameters, **ternary},
            num_layers=dense.num_layers,
            batch_first=dense.batch_first,
            bidirectional=dense.bidirectional,
            activations=activations,
        )

    @property
    def ternary_weights(self) -> dict[str, TernaryLinear]:
        """The packed matrices under torch's weight names."""
        return {
            f"weight_{side}_{name}": matrix
            for name, recurrence in self.recurrences.items()
            for side in ("ih", "hh")
            if isinstance(matrix := getattr(recurrence, side), TernaryLinear)
        }

    def codes(self) -> dict[str, Tensor]:
        """The int8 codes (gates * hidden, inputs) of each ternary matrix, by torch's names."""
        return {name: matrix.codes() for name, matrix in self.ternary_weights.items()}

    def effective_weight(self) -> dict[str, Tensor]:
        """The float32 weights that each ternary matrix stands for, by torch's names."""
        return {name: matrix.effective_weight() for name, matrix in self.ternary_weights.items()}

    @property
    def kernel(self) -> str:
        """The code that runs, for reports: each matrix's kernel, and how many matrices run it."""
        return describe(self.recurrences)

    @property
    def weight_bytes(self) -> int:
        """Bytes stored for all weight matrices, packed and dense."""
        total = 0
        for recurrence in self.recurrences.values():
            for matrix in (recurrence.ih, recurrence.hh):
                if isinstance(matrix, TernaryLinear):
                    total += matrix.weight_bytes
                else:
                    assert isinstance(matrix, nn.Linear)
                    weight = matrix.weight
                    total += weight.numel() * weight.element_size()
        return total

    def _recurrence(self, layer: int, backward: bool) -> _Recurrence:
        found = self.recurrences[f"l{layer}{'_reverse' if backward else ''}"]
        assert isinstance(found, _Recurrence)
        return found

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise InputError(f"input: expected a tensor, got {type(x).__name__}")
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size:
            raise InputError(
                f"input: expected 2 or 3 dimensions, the last of {self.input_size},"
                f" got {tuple(x.shape)}"
            )

    def _start(self, state: Tensor | None, x: Tensor, batched: bool, name: str) -> Tensor:
        """The state (layers * directions, batch, hidden); zeros where none is given."""
        rows = self.num_layers * (2 if self.bidirectional else 1)
        shape = (rows, x.shape[1], self.hidden_size)
        if state is None:
            return x.new_zeros(shape)
        if not batched and state.dim() == 2:
            state = state.unsqueeze(1)
        if tuple(state.shape) != shape:
            raise InputError(f"{name}: expected shape {shape}, got {tuple(state.shape)}")
        return state

    def _one_step(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
        """A single step of all layers in one native call; None where that cannot be."""
        if x.shape[0] != 1 or self.bidirectional:
            return None
        h, c = states[0], states[1] if len(states) > 1 else None
        found = self._stack.step(self._matrices, x[0], h, c)
        if found is None:
            return None
        after, cells = found
        return after[-1:].clone(), [after] if cells is None else [after, cells]

    def _matrices(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(pair.ih, pair.hh) for pair in self.recurrences.values()]  # type: ignore[misc]

    def _run(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """All layers over x (time, batch, input); states are (rows, batch, hidden) each."""
        finals: list[list[Tensor]] = [[] for _ in states]
        row = 0
        for layer in range(self.num_layers):
            outputs = []
            for backward in (False, True) if self.bidirectional else (False,):
                recurrence = self._recurrence(layer, backward)
                start = [state[row] for state in states]
                output, final = self._sweep(recurrence, recurrence.ih(x), start, backward)
                outputs.append(output)
                for kept, last in zip(finals, final, strict=True):
                    kept.append(last)
                row += 1
            x = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
        return x, [torch.stack(kept) for kept in finals]

    def _sweep(
        self, recurrence: _Recurrence, inputs: Tensor, states: list[Tensor], backward: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """One layer in one direction over the input products (time, batch, gates * hidden)."""
        if isinstance(recurrence.hh, TernaryLinear) and inputs.numel() and ops.is_plain(inputs):
            matrix = recurrence.hh
            swept = ops.recurrent(
                inputs,
                states,
                matrix.packed,
                matrix.scale_pos,
                matrix.scale_neg,
                matrix.bias,
                matrix.activations == "int8",
                backward,
            )
            if swept is not None:
                return swept
        steps = range(inputs.shape[0])
        outputs: list[Tensor] = [inputs] * inputs.shape[0]
        for t in reversed(steps) if backward else steps:
            states = self._step(recurrence, inputs[t], states)
            outputs[t] = states[0]
        if not outputs:
            return inputs.new_empty(0, inputs.shape[1], self.hidden_size), states
        return torch.stack(outputs), states

    def _step(self, recurrence: _Recurrence, gates: Tensor, states: list[Tensor]) -> list[Tensor]:
        raise NotImplementedError

    def _forward(
        self, x: Tensor, states: list[Tensor | None], names: tuple[str, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        self._check(x)
        batched = x.dim() == 3
        if not batched:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        start = [
            self._start(state, x, batched, name) for state, name in zip(states, names, strict=True)
        ]
        y, final = self._one_step(x, start) or self._run(x, start)
        if not batched:
            return y.squeeze(1), [state.squeeze(1) for state in final]
        return (y.transpose(0, 1) if self.batch_first else y), final

    def extra_repr(self) -> str:
        """Sizes and options."""
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers},"
            f" batch_first={self.batch_first}, bidirectional={self.bidirectional}"
        )


def _matrix(parameters: Mapping[str, Tensor | Ternary], name: str, activations: str) -> nn.Module:
    weight = parameters.get(f"weight_{name}")
    bias = parameters.get(f"bias_{name}")
    if weight is None:
        raise InputError(f"parameters: weight_{name} is missing")
    if isinstance(bias, tuple):
        raise InputError(f"parameters: bias_{name}: expected a tensor")
    if isinstance(weight, tuple):
        return TernaryLinear(*weight, bias=bias, activations=activations)
    out, inputs = weight.shape
    dense = nn.Linear(inputs, out, bias=bias is not None, device=weight.device)
    with torch.no_grad():
        dense.weight.copy_(weight)
        if bias is not None:
            dense.bias.copy_(bias)
    return dense.requires_grad_(False)


class TernaryLSTM(_TernaryRecurrent):
    """``nn.LSTM`` (without projection) on ternary weights; called as torch's is."""

    gates = 4
    dense_type = nn.LSTM

    def forward(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Output and (h_n, c_n), shaped as nn.LSTM's."""
        y, (h, c) = self._forward(x, list(hx) if hx else [None, None], ("h_0", "c_0"))
        return y, (h, c)

    def _step(self, recurrence: _Recurrence, gates: Tensor, states: list[Tensor]) -> list[Tensor]:
        h, c = states
        hidden = recurrence.hh
        if isinstance(hidden, TernaryLinear) and gpu.usable() and gpu.takes(h):
            scales = hidden.scale_pos, hidden.scale_neg
            int8 = hidden.activations == "int8"
            return list(
                gpu.packed_lstm_step(gates, h, c, hidden.packed, *scales, hidden.bias, int8)
            )
        return list(ops.lstm_cell(recurrence.hidden(h, gates), c))


class TernaryGRU(_TernaryRecurrent):
    """``nn.GRU`` on ternary weights; called as torch's is."""

    gates = 3
    dense_type = nn.GRU

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Output and h_n, shaped as nn.GRU's."""
        y, (h,) = self._forward(x, [hx], ("h_0",))
        return y, h

    def _step(self, recurrence: _Recurrence, gates: Tensor, states: list[Tensor]) -> list[Tensor]:
        return [ops.gru_cell(gates, recurrence.hidden(states[0], None), states[0])]
