"""CUDA graphs: a whole forward captured once and replayed without the host's launch costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ttq_energy.errors import InputError

WARM_UPS = 3


class GraphedModule(nn.Module):
    """A module whose forward is one CUDA graph for inputs of one shape; see :func:`graphed`."""

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.module = module
        self._input = example.clone()
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(device=example.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(example.device))
        with torch.cuda.device(example.device), torch.inference_mode():
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):  # compiles, tunes, lays weights out
                    module(self._input)
            stream.synchronize()
            # The same stream captures: split-K counters belong to a stream.
            with torch.cuda.graph(self._graph, stream=stream):
                self._output = module(self._input)

    def forward(self, x: Tensor) -> Any:
        """Replay on ``x``; the result is overwritten by the next call."""
        if x.shape != self._input.shape or x.dtype != self._input.dtype:
            raise InputError(
                f"x: this graph takes {self._input.dtype} of shape {tuple(self._input.shape)},"
                f" got {x.dtype} {tuple(x.shape)}"
            )
        if x.data_ptr() != self._input.data_ptr():
            with torch.no_grad():
                self._input.copy_(x)
        self._graph.replay()
        return tree_map(lambda value: value, self._output)


def graphed(module: nn.Module, example: Tensor) -> GraphedModule:
    """Capture the forward of a module on a CUDA device as one graph.

    The module must not synchronize with the host, and its parameters must stay where they are.
    Its output is overwritten by the next call; clone what is to be kept. Replays of graphs that
    share a module must not overlap in time.

    Args:
        module: in evaluation mode, on the GPU.
        example: an input of the shape and dtype of every later one.

    Raises:
        InputError: the example does not lie on a CUDA device.
        RuntimeError: the forward cannot be captured.
    """
    if not example.is_cuda:
        raise InputError(f"example: expected a CUDA tensor, got one on {example.device}")
    return GraphedModule(module, example)
