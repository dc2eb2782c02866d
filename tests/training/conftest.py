"""Small networks and data that train in a second."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ttq_energy as te
from ttq_energy.study import FineTuneSpec, TrainingSpec


class SmallNet(nn.Module):
    """Convolutions with normalization and dropout, for the digits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.1)
        self.last = nn.Linear(8 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.norm(self.middle(x)))
        return self.last(self.dropout(nn.functional.avg_pool2d(x, 2)).flatten(1))


@pytest.fixture(scope="session")
def digits():
    return te.datasets.load("digits")


@pytest.fixture(scope="session")
def spec():
    return TrainingSpec(epochs=3, learning_rate=0.05, fine_tune=FineTuneSpec(epochs=2))


@pytest.fixture
def small_net():
    """Makes the same network, prepared where a configuration is given."""

    def make(config=None, seed=0):
        torch.manual_seed(seed)
        model = SmallNet()
        return model if config is None else te.prepare_(model, config)

    return make
