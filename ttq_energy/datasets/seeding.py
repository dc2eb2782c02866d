"""Random states that depend on what is drawn, not on which process draws it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset


def derived_seed(*keys: int) -> int:
    """A seed of 63 bits that depends on all keys, each a whole number of 0 or more."""
    state = np.random.SeedSequence(keys).generate_state(1, np.uint64)
    return int(state[0]) >> 1


class Seeded(Dataset[Any]):
    """Examples of another data set, each with random states of its own.

    An item is asked for by (index, seed, epoch). With a seed, the global random states of torch,
    numpy and ``random`` are set from all three while the example is made, and put back after; a
    data set with a method ``augmented(index)`` is then asked by that.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset
        self._augmented = getattr(dataset, "augmented", dataset.__getitem__)

    def __getitem__(self, key: tuple[int, int | None, int]) -> Any:
        index, seed, epoch = key
        if seed is None:
            return self.dataset[index]
        own = derived_seed(seed, epoch, index)
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(own)
                np.random.seed(own % 2**32)  # noqa: NPY002
                random.seed(own)
                return self._augmented(index)
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
