"""A data set ready for training and testing, with loaders that repeat exactly.

What a loader yields depends on (seed, epoch) alone: not on the number of worker processes, and the
batches of all ranks side by side are the batches of one process.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ttq_energy.datasets.seeding import Seeded, derived_seed
from ttq_energy.errors import InputError

Batch = tuple[torch.Tensor, torch.Tensor]
SMALLEST_BATCH = 2
"""Batch normalization cannot train on one example."""
_ORDER, _EPOCH, _BATCH = range(3)
"""Streams of random numbers that have nothing to do with each other."""


def _generator(*keys: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(*keys))


@dataclass(frozen=True)
class Draw:
    """The random choices of one training batch.

    Attributes:
        seed, epoch: of the training.
        batch: position of the batch in the epoch.
        size: examples of the batch over all ranks.
        rows: this rank's part of them.
    """

    seed: int
    epoch: int
    batch: int
    size: int
    rows: slice

    def uniform(self, count: int, *, per_epoch: bool = False) -> torch.Tensor:
        """``count`` numbers in [0, 1) for each of this rank's examples, (rows, count) float32.

        With ``per_epoch`` (count,) numbers that hold for the whole epoch.
        """
        if per_epoch:
            generator = _generator(_EPOCH, self.seed, self.epoch)
            return torch.rand(count, generator=generator)
        generator = _generator(_BATCH, self.seed, self.epoch, self.batch)
        return torch.rand(self.size, count, generator=generator)[self.rows]


@runtime_checkable
class Batched(Protocol):
    """A data set in memory that makes a whole batch at once."""

    def __len__(self) -> int: ...

    def batch(self, indices: torch.Tensor, draw: Draw | None = None) -> Batch:
        """The examples at ``indices`` (n,) int64; augmented where ``draw`` is given."""
        ...


@dataclass(frozen=True)
class Data:
    """A training and a test set.

    Attributes:
        name: what studies call it.
        task: "classification": x is (N, channels, height, width) float32, normalized, and y is
            (N,) int64. "language-model": x and y are (N, tokens) int64, y the token after each.
        train, test: torch Datasets of (x, y), without augmentation.
        num_classes: classes, or the vocabulary's size.
        input_shape: of one x.
        source: where the data comes from and how it was split, for people.
        workers: processes that decode examples which are not in memory.
    """

    name: str
    task: str
    train: Dataset[Any]
    test: Dataset[Any]
    num_classes: int
    input_shape: tuple[int, ...]
    source: str = ""
    workers: int = 0

    def train_loader(
        self,
        batch_size: int,
        seed: int,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
    ) -> Loader:
        """One epoch of shuffled, augmented batches of (x, y).

        Args:
            batch_size: examples a rank gets at once; together ``batch_size * world_size``.
            seed, epoch: decide order and augmentation, and nothing else does.
            rank, world_size: which process of how many; one process with ``world_size`` times
                the batch sees the same examples, augmented alike.
            start_batch: batches to skip at the beginning, to continue an interrupted epoch.

        The last batch may be smaller. It is the same on all ranks, so up to ``world_size - 1``
        examples, and a batch of one example a rank, are left out of an epoch.
        """
        batch_size = _whole(batch_size)
        _check_loader(rank, world_size)
        together = batch_size * world_size
        order = torch.randperm(_length(self.train), generator=_generator(_ORDER, seed, epoch))
        smallest = min(SMALLEST_BATCH, batch_size)
        chunks = [c for c in torch.split(order, together) if len(c) // world_size >= smallest]
        parts = []
        for position, chunk in enumerate(chunks):
            each = len(chunk) // world_size
            rows = slice(rank * each, (rank + 1) * each)
            parts.append((chunk[rows], Draw(seed, epoch, position, each * world_size, rows)))
        if not parts:
            raise InputError(
                f"data set '{self.name}': {_length(self.train)} training examples are too few for "
                f"{world_size} processes; expected at least {smallest} each"
            )
        return Loader(self.train, parts[start_batch:], self.workers)

    def test_loader(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Loader:
        """The test set in order, in batches of (x, y); each rank gets a contiguous part."""
        batch_size = _whole(batch_size)
        _check_loader(rank, world_size)
        size = _length(self.test)
        first, last = size * rank // world_size, size * (rank + 1) // world_size
        order = torch.arange(first, last)
        parts = [(chunk, None) for chunk in torch.split(order, batch_size) if len(chunk)]
        return Loader(self.test, parts, self.workers)

    def example(self, batch_size: int = 1) -> torch.Tensor:
        """A batch of test inputs for measuring, the same at every call.

        The test set in a fixed random order; it is repeated where the batch is larger.
        """
        batch_size = _whole(batch_size)
        size = _length(self.test)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        indices = order[torch.arange(batch_size) % size]
        (batch,) = Loader(self.test, [(indices, None)], 0)
        return batch[0]


class Loader:
    """An iterable of (x, y) with a length; may be iterated again."""

    def __init__(
        self,
        dataset: Dataset[Any],
        parts: Sequence[tuple[torch.Tensor, Draw | None]],
        workers: int,
    ) -> None:
        self._dataset, self._parts, self._workers = dataset, list(parts), workers

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Batch]:
        if isinstance(self._dataset, Batched):
            for indices, draw in self._parts:
                yield self._dataset.batch(indices, draw)
            return
        keys = []
        for indices, draw in self._parts:
            seed, epoch = (None, 0) if draw is None else (draw.seed, draw.epoch)
            keys.append([(index, seed, epoch) for index in indices.tolist()])
        if not keys:
            return
        loader: DataLoader[Any] = DataLoader(
            Seeded(self._dataset),
            batch_sampler=keys,
            num_workers=min(self._workers, len(keys)),
            generator=torch.Generator().manual_seed(0),  # else it draws from the global state
        )
        try:
            yield from loader
        except InputError as error:
            # A worker's error arrives with its traceback as text; its last line is the message.
            last = str(error).strip().splitlines()[-1]
            raise InputError(last.rpartition("InputError: ")[2]) from None


class TensorsInMemory(Dataset[Any]):
    """A TensorDataset of (x, y) that makes whole batches; nothing is augmented."""

    def __init__(self, dataset: TensorDataset) -> None:
        self.dataset = dataset
        self.inputs, self.labels = dataset.tensors

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Batch:
        return self.inputs[index], self.labels[index]

    def batch(self, indices: torch.Tensor, draw: Draw | None = None) -> Batch:
        """See :class:`Batched`."""
        return self.inputs[indices], self.labels[indices]


class ImagesInMemory(Dataset[Any]):
    """Images that fit in memory, normalized and augmented a batch at a time.

    Args:
        images: (N, channels, height, width), uint8 or float32.
        labels: (N,) int64.
        mean, scale: an image becomes ``(image - mean) / scale``; they broadcast over one image.
        padding: pixels added on each side, before a window of the old size is cut at random.
        fill: what is added, as a normalized value.
        flip: whether an image is mirrored, left to right, with probability 1/2.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        mean: torch.Tensor,
        scale: torch.Tensor,
        *,
        padding: int = 0,
        fill: float = 0.0,
        flip: bool = False,
    ) -> None:
        self.images, self.labels = images, labels
        self.mean, self.scale = mean, scale
        self.padding, self.fill, self.flip = padding, fill, flip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        x, y = self.batch(torch.tensor([index]))
        return x[0], int(y[0])

    def batch(self, indices: torch.Tensor, draw: Draw | None = None) -> Batch:
        """See :class:`Batched`."""
        x = (self.images[indices].float() - self.mean) / self.scale
        if draw is not None and (self.padding or self.flip):
            x = self._augment(x, draw.uniform(3))
        return x, self.labels[indices]

    def _augment(self, x: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
        """Cut a shifted window from the padded images and mirror some; chance is (N, 3)."""
        count, channels, height, width = x.shape
        offset = (chance[:, :2] * (2 * self.padding + 1)).long()
        rows = offset[:, :1] + torch.arange(height)
        columns = torch.arange(width).expand(count, width)
        if self.flip:
            columns = torch.where(chance[:, 2:] < 0.5, columns.flip(1), columns)
        columns = offset[:, 1:] + columns
        padded = torch.nn.functional.pad(x, (self.padding,) * 4, value=self.fill)
        # One gather over flat pixels: a fifth of the time of indexing rows and columns.
        places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        places = places.view(count, 1, -1).expand(-1, channels, -1)
        return padded.flatten(2).gather(2, places).view(count, channels, height, width)


def channel_statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel of (N, C, H, W), each (C, 1, 1) float32."""
    flat = images.numpy()
    mean = flat.mean(axis=(0, 2, 3), dtype=np.float64)
    deviation = flat.std(axis=(0, 2, 3), dtype=np.float64)
    as_channels = [torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (mean, deviation)]
    return as_channels[0], as_channels[1]


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]


def _whole(batch_size: Any) -> int:
    """A batch size as Python's whole number; numpy's and torch's are taken too."""
    try:
        size = operator.index(batch_size)
    except TypeError:
        size = None
    if size is None or isinstance(batch_size, bool):
        raise InputError(f"batch_size: expected a whole number, got {batch_size!r}")
    if size < 1:
        raise InputError(f"batch_size: must be at least 1, got {size}")
    return size


def _check_loader(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise InputError(f"rank: must be from 0 to {world_size - 1}, got {rank}")
