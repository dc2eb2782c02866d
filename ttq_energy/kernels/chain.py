"""Consecutive layers in one native call; src/chain.h says how they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ttq_energy.kernels import isa, ops
from ttq_energy.kernels.chain_steps import Kind, Layer, tensor_sources

_GET_ITEM: Callable[[dict[str, Any], str], Any] = dict.__getitem__
_GET_ADDRESS: Callable[[Any], int] = Tensor.data_ptr


class Chain(nn.Module):
    """Consecutive layers in one native call, or one by one where that cannot be.

    Args:
        layers: in the order of their execution, by the node of their result.
        inputs: the nodes whose values come from outside.
        outputs: the nodes whose values are given back.
        one_by_one: a module that does the same.
    """

    def __init__(
        self,
        layers: dict[fx.Node, Layer],
        inputs: list[fx.Node],
        outputs: list[fx.Node],
        one_by_one: nn.Module,
    ) -> None:
        super().__init__()
        # Not as a submodule: nobody but forward may find the layers here a second time.
        self.__dict__["one_by_one"] = one_by_one
        number = {node: i for i, node in enumerate([*inputs, *layers])}
        steps = [
            (
                int(layer.kind),
                number[layer.operands[0]],
                number[layer.operands[1]] if len(layer.operands) > 1 else -1,
                layer.relu,
                layer.sizes,
                layer.numbers,
            )
            for layer in layers.values()
        ]
        self._native = isa.native().Chain(len(inputs), steps, [number[node] for node in outputs])
        self._layers = list(layers.values())
        self._tensors = _Tensors(self._layers)
        self._shapes: dict[tuple[torch.Size, ...], list[list[int]] | None] = {}

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs: a tensor, or a tuple of several."""
        outputs = self._run(inputs)
        if outputs is None:
            one_by_one: nn.Module = self.__dict__["one_by_one"]
            return one_by_one(*inputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _run(self, inputs: tuple[Tensor, ...]) -> list[Tensor] | None:
        for x in inputs:
            if type(x) is not Tensor or x.dtype != torch.float32 or not x.is_cpu:
                return None
        shapes = self._output_shapes(inputs)
        if shapes is None:
            return None
        addresses = self._tensors.addresses()
        if addresses is None:
            return None
        channels_last = any(ops.is_channels_last(x) for x in inputs if x.dim() == 4)
        images = inputs[0].shape[0]
        outputs = [
            torch.empty(
                (images, *shape),
                dtype=torch.float32,
                device="cpu",
                memory_format=torch.channels_last,
            )
            if channels_last and len(shape) == 3
            else torch.empty((images, *shape), dtype=torch.float32, device="cpu")
            for shape in shapes
        ]
        good = self._native.run(
            [[x.data_ptr(), *x.shape, *x.stride()] for x in inputs],
            addresses,
            [y.data_ptr() for y in outputs],
            channels_last,
            torch.get_num_threads(),
        )
        return outputs if good else None

    def _output_shapes(self, inputs: tuple[Tensor, ...]) -> list[list[int]] | None:
        """Of each output without the batch; None where the layers do not take the inputs."""
        key = tuple(x.shape for x in inputs)
        if key not in self._shapes:
            if len(self._shapes) >= 1024:
                self._shapes.clear()
            try:
                self._shapes[key] = self._native.shapes(
                    [[0, *x.shape, *x.stride()] for x in inputs]
                )
            except ValueError:
                # What is wrong is told by the layers themselves.
                self._shapes[key] = None
        return self._shapes[key]

    def parameters_in_use(self) -> Iterator[Tensor]:
        """The dense layers' weights, which may want gradients."""
        for layer in self._layers:
            if layer.module is not None:
                yield from layer.module._parameters.values()  # type: ignore[misc]

    def dense_layers(self) -> list[nn.Module]:
        """Full-precision convolutions and linear layers that run natively here."""
        if self._tensors.addresses() is None:
            return []
        kinds = (Kind.DENSE_CONVOLUTION, Kind.DENSE_LINEAR)
        return [s.module for s in self._layers if s.kind in kinds and s.module is not None]


class _Tensors:
    """The layers' tensors as the native code wants them at each call.

    Whatever may have changed since the last call is looked at by functions of C alone, and what was
    found is never altered but replaced as a whole, as other threads may be using it.
    """

    def __init__(self, layers: list[Layer]) -> None:
        self._layers = [layer for layer in layers if layer.module is not None]
        self._found = _Found(self._layers)

    def addresses(self) -> list[int] | None:
        """The list of src/chain.h; None where the native code cannot read the tensors."""
        found = self._found
        if not found.readable or not found.holds():
            found = self._found = _Found(self._layers)
        return found.numbers if found.readable else None


class _Found:
    """Tensors found, and how to tell that they are still what is there."""

    def __init__(self, layers: list[Layer]) -> None:
        self.numbers: list[int] = []  # addresses, and what else src/chain.h says
        self._dicts: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._absent: list[tuple[dict[str, Any], str]] = []
        self._relus: list[tuple[dict[str, Any], bool]] = []
        self._tensors: list[Tensor] = []  # held, so that no other gets one of their addresses
        for layer in layers:
            for tensors, name in tensor_sources(layer):
                tensor = tensors[name]
                self.numbers.append(0 if tensor is None else tensor.data_ptr())
                if tensor is None:
                    self._absent.append((tensors, name))
                else:
                    self._dicts.append(tensors)
                    self._names.append(name)
                    self._tensors.append(tensor)
            if layer.kind in (Kind.CONVOLUTION, Kind.LINEAR):
                module: Any = layer.module
                self._relus.append((module.__dict__, module.relu))
                self.numbers += [int(module.relu), module.packed.numel()]
        self._addresses = list(map(_GET_ADDRESS, self._tensors))
        self.readable = all(map(_is_readable, self._tensors, self._names))

    def holds(self) -> bool:
        """Whether the same tensors are still there, in the same memory."""
        try:
            there = list(map(_GET_ADDRESS, map(_GET_ITEM, self._dicts, self._names)))
        except (KeyError, TypeError):
            return False
        return (
            there == self._addresses
            and all(module["relu"] == relu for module, relu in self._relus)
            and all(tensors[name] is None for tensors, name in self._absent)
        )


def _is_readable(tensor: Tensor, name: str) -> bool:
    kind = torch.uint8 if name == "packed" else torch.float32
    return tensor.is_cpu and tensor.dtype == kind and tensor.is_contiguous()
