"""The dense rivals compute the network that they were made from."""

import pytest
import torch
from torch import nn

from ttq_energy.kernels import dense, describe


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize(
    ("transform", "tolerance", "named"),
    [(dense.best_fp32, 1e-5, "fp32"), (dense.bf16, 2e-2, "bf16"), (dense.int8, 1e-1, "int8")],
)
def test_the_rival_is_the_same_network(network, transform, tolerance, named):
    x = torch.randn(4, 3, 16, 16)
    rival, kernel = transform(network, x)
    with torch.inference_mode():
        expected, y = network(x), rival(x)
    assert y.dtype == torch.float32
    assert (y - expected).norm() <= tolerance * expected.norm()
    assert named in kernel


def test_int8_really_runs_on_integers(network):
    rival, _ = dense.int8(network, torch.randn(4, 3, 16, 16))
    assert "torch int8" in describe(rival)
    assert not any(type(module) is nn.Conv2d for module in rival.modules())


def test_int8_of_a_recurrent_network_quantizes_its_matrices():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0])

    torch.manual_seed(1)
    model, x = Recurrent().eval(), torch.randn(2, 6, 8)
    rival, kernel = dense.int8(model, x)
    with torch.inference_mode():
        expected, y = model(x), rival(x)
    assert (y - expected).norm() <= 0.1 * expected.norm()
    assert kernel.startswith("torch int8 dynamic")


def test_a_network_without_int8_kernels_says_so():
    model = nn.Sequential(nn.LayerNorm(4), nn.GELU()).eval()
    rival, kernel = dense.int8(model, torch.randn(2, 4))
    assert "no layer has an int8 kernel" in kernel
    assert rival(torch.randn(2, 4)).shape == (2, 4)


def test_a_recurrent_network_is_also_tried_without_onednn(monkeypatch):
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 16, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, _ = self.lstm(x)
            return y

    model, x = Last().eval(), torch.randn(1, 3, 8)
    tried = []

    def last_one(candidates, example_input):
        tried.extend(name for _, name in candidates)
        return candidates[-1]

    monkeypatch.setattr(dense, "_fastest", last_one)
    rival, kernel = dense.best_fp32(model, x)
    enabled = torch.backends.mkldnn.enabled
    with torch.inference_mode():
        torch.testing.assert_close(rival(x), model(x))
    assert tried == ["torch fp32", kernel]
    assert "without oneDNN" in kernel
    assert torch.backends.mkldnn.enabled == enabled
