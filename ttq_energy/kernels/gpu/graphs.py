"""CUDA graphs: a whole forward captured once and replayed without the host's launch costs."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ttq_energy.errors import InputError

WARM_UPS = 3
KEPT_GRAPHS = 8
"""Shapes whose graphs are kept; the one used least lately goes first."""

_Key = tuple[torch.Size, torch.dtype]


class _Capture:
    """One graph: its input's place, what it writes, and the weights that it was captured with."""

    def __init__(self, module: nn.Module, example: Tensor, weights: tuple[Any, ...]) -> None:
        self.weights = weights
        self.input = example.clone()
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(device=example.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(example.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):  # compiles, tunes, lays weights out
                module(self.input)
        stream.synchronize()
        # The same stream captures: split-K counters belong to a stream.
        with torch.cuda.graph(self._graph, stream=stream):
            self.output = module(self.input)

    def replay(self, x: Tensor) -> Any:
        if x.data_ptr() != self.input.data_ptr():
            self.input.copy_(x)
        self._graph.replay()
        return self.output


class GraphedModule(nn.Module):
    """A module whose forward is a CUDA graph, one for each shape; see :func:`graphed`."""

    def __init__(self, module: nn.Module, example: Tensor, *, clone_outputs: bool = True) -> None:
        super().__init__()
        self.module = module
        self.device = example.device
        self.clone_outputs = clone_outputs
        self._captures: OrderedDict[_Key, _Capture] = OrderedDict()
        self._holders = [
            (held, name)
            for part in module.modules()
            for held in (part._parameters, part._buffers)
            for name, value in held.items()
            if value is not None
        ]
        with torch.cuda.device(self.device), torch.inference_mode():
            self._captured(example.detach())

    def forward(self, x: Tensor) -> Any:
        """Replay on ``x``, which may lie on any device.

        Outputs are copies, unless ``clone_outputs`` was False: then the next call writes over them.
        """
        with torch.cuda.device(self.device), torch.inference_mode():
            output = self._captured(x.detach()).replay(x)
            return tree_map(_cloned, output) if self.clone_outputs else output

    def _captured(self, x: Tensor) -> _Capture:
        """The graph for inputs like ``x`` and the weights as they are, captured if need be."""
        key, weights = (x.shape, x.dtype), self._weights()
        capture = self._captures.get(key)
        if capture is None or capture.weights != weights:
            self._captures.pop(key, None)
            capture = _Capture(self.module, x.to(self.device), weights)
            # A forward may count in a buffer; what it changed itself is no reason to capture again.
            capture.weights = self._weights()
            self._captures[key] = capture
            if len(self._captures) > KEPT_GRAPHS:
                self._captures.popitem(last=False)
        self._captures.move_to_end(key)
        return capture

    def _weights(self) -> tuple[Any, ...]:
        """Where each parameter and buffer lies, and how often it was changed in place.

        Packed layers keep a second layout of their weights, so that a graph cannot see a change.
        """
        return tuple(_state(held.get(name)) for held, name in self._holders)


def _state(tensor: Tensor | None) -> tuple[int, int]:
    if tensor is None:
        return 0, 0
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def graphed(module: nn.Module, example: Tensor, *, clone_outputs: bool = True) -> GraphedModule:
    """Run the forward of a module on a CUDA device as one graph.

    Inputs are copied into the graph's own. An input of another shape or dtype, or weights that were
    changed or replaced since, are captured anew (up to eight shapes are kept). The module must not
    synchronize with the host. Replays of graphs that share a module must not overlap in time.

    Args:
        module: in evaluation mode, on the GPU.
        example: an input that the first graph is captured for.
        clone_outputs: give copies; False gives the graph's own tensors, which its next call
            overwrites.

    Raises:
        InputError: the example does not lie on a CUDA device.
        RuntimeError: the forward cannot be captured.
    """
    if not example.is_cuda:
        raise InputError(f"example: expected a CUDA tensor, got one on {example.device}")
    return GraphedModule(module, example, clone_outputs=clone_outputs)
