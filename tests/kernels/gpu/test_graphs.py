"""What a graphed module does around its graphs, on a CPU where a graph runs its module again."""

import contextlib

import pytest
import torch
from torch import nn

from ttq_energy.kernels.gpu import graphs
from ttq_energy.kernels.gpu.graphs import GraphedModule


class Capture(graphs._Capture):
    """Writes into the same output at every replay, as a graph does; captures are counted."""

    count = 0

    def __init__(self, module, example, weights):
        super().__init__(module, example, weights)
        self.module = module
        Capture.count += 1

    def replay(self, x):
        self.input.copy_(x)
        self.output.copy_(self.module(self.input))
        return self.output


class Stream:
    def __init__(self, **_):
        pass

    def wait_stream(self, _):
        pass

    synchronize = lambda self: None  # noqa: E731


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    context = lambda *_, **__: contextlib.nullcontext()  # noqa: E731
    for name, value in {
        "CUDAGraph": object,
        "Stream": Stream,
        "current_stream": lambda _: None,
        "stream": context,
        "graph": context,
        "device": context,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(graphs, "_Capture", Capture)
    Capture.count = 0


def test_outputs_are_copies_unless_that_is_switched_off():
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    graph = GraphedModule(nn.ReLU(), x)
    first = graph(x)
    graph(y)
    assert torch.equal(first, x)
    graph = GraphedModule(nn.ReLU(), x, clone_outputs=False)
    first = graph(x)
    graph(y)
    assert torch.equal(first, y)


def test_the_callers_input_is_not_written():
    x = torch.tensor([[-1.0, 2.0]])
    graph = GraphedModule(nn.ReLU(inplace=True), x)
    graph(x)
    assert x.tolist() == [[-1.0, 2.0]]


def test_another_shape_is_captured_once_and_kept():
    graph = GraphedModule(nn.Linear(3, 2), torch.ones(2, 3))
    for _ in range(3):
        assert graph(torch.ones(2, 3)).shape == (2, 2)
        assert graph(torch.ones(5, 3)).shape == (5, 2)
    assert Capture.count == 2


def test_the_shapes_that_are_kept_are_few():
    graph = GraphedModule(nn.ReLU(), torch.ones(1))
    for size in range(1, graphs.KEPT_GRAPHS + 4):
        graph(torch.ones(size))
    assert len(graph._captures) == graphs.KEPT_GRAPHS


@pytest.mark.parametrize("change", ["in place", "replaced"])
def test_changed_weights_are_captured_anew(change):
    layer = nn.Linear(3, 2, bias=False)
    graph = GraphedModule(layer, torch.ones(1, 3))
    if change == "in place":
        with torch.no_grad():
            layer.weight.zero_()
    else:
        layer.weight = nn.Parameter(torch.zeros(2, 3))
    assert not graph(torch.ones(1, 3)).any()
    assert Capture.count == 2
    graph(torch.ones(1, 3))
    assert Capture.count == 2


def test_a_buffer_that_the_forward_itself_counts_in_is_no_change():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            return x + self.calls.add_(1)

    graph = GraphedModule(Counting(), torch.ones(1))
    before = Capture.count
    graph.module.calls.zero_()
    graph(torch.ones(1))
    assert Capture.count == before + 1
