"""Random inputs and labels of a network's shape: to profile without data, never for accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.data import TensorDataset

from ttq_energy import models
from ttq_energy.datasets.base import Data, TensorsInMemory
from ttq_energy.records import setting


@dataclass(frozen=True)
class RandomOptions:
    """Options of the random data.

    Attributes:
        model: a network whose input shape (with its default options) is taken.
        input_shape: of one input where no model is named; one number for tokens.
        num_classes: classes, or the vocabulary's size.
        train_examples, test_examples: how many.
        seed: of the numbers.
    """

    model: str | None = None
    input_shape: tuple[int, ...] = setting((3, 32, 32), low=1)
    num_classes: int = setting(10, low=2)
    train_examples: int = setting(128, low=2)
    test_examples: int = setting(64, low=1)
    seed: int = setting(0, low=0)


def load(options: RandomOptions) -> Data:
    """Standard normal images, or uniform tokens, with uniform labels."""
    shape, tokens = tuple(options.input_shape), len(options.input_shape) == 1
    if options.model is not None:
        example = models.example_input(options.model)
        shape, tokens = tuple(example.shape[1:]), not example.is_floating_point()
    generator = torch.Generator().manual_seed(options.seed)

    def make(count: int) -> TensorsInMemory:
        if tokens:
            text = torch.randint(options.num_classes, (count, shape[0] + 1), generator=generator)
            return TensorsInMemory(TensorDataset(text[:, :-1], text[:, 1:]))
        x = torch.randn(count, *shape, generator=generator)
        return TensorsInMemory(
            TensorDataset(x, torch.randint(options.num_classes, (count,), generator=generator))
        )

    return Data(
        name="random",
        task="language-model" if tokens else "classification",
        train=make(options.train_examples),
        test=make(options.test_examples),
        num_classes=options.num_classes,
        input_shape=shape,
        source=f"random numbers, seed {options.seed}: accuracy on them means nothing",
    )
