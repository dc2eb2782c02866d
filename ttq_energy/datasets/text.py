"""Character-level text: the language reference's topics, which ship with Python (``pydoc_data``).

The text is the same wherever the Python version is the same; other versions bring other text, so
results across Python versions are not comparable. ``Data.source`` names version and size.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ttq_energy.datasets.base import Batch, Data, Draw
from ttq_energy.errors import InputError
from ttq_energy.records import setting

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""Tokens 0 to 95; every other character is token 96."""
VOCABULARY = len(ALPHABET) + 1


@dataclass(frozen=True)
class TextOptions:
    """Options of the text.

    Attributes:
        sequence_length: tokens of one example.
        test_fraction: the end of the text that is the test set.
        augment: whether the training windows begin at another place in each epoch.
    """

    sequence_length: int = setting(128, low=1)
    test_fraction: float = setting(0.1, above=0.0, high=0.9)
    augment: bool = True


class Windows(Dataset[Any]):
    """Consecutive windows of a text, none overlapping; y is x moved on by one token."""

    def __init__(self, tokens: torch.Tensor, length: int, *, augment: bool = False) -> None:
        self.tokens, self.length, self.augment = tokens, length, augment
        spare = length if augment else 0
        self.count = max(0, (len(tokens) - 1 - spare) // length)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.batch(torch.tensor([index]))
        return x[0], y[0]

    def batch(self, indices: torch.Tensor, draw: Draw | None = None) -> Batch:
        """See :class:`ttq_energy.datasets.base.Batched`; x and y are (n, length) int64."""
        begin = indices * self.length
        if draw is not None and self.augment:
            begin = begin + int(draw.uniform(1, per_epoch=True) * self.length)
        places = begin[:, None] + torch.arange(self.length)
        return self.tokens[places].long(), self.tokens[places + 1].long()


def encode(text: str) -> torch.Tensor:
    """Tokens of a text, (characters,) uint8, below ``VOCABULARY``."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    table = np.full(128, VOCABULARY - 1, dtype=np.uint8)
    for token, character in enumerate(ALPHABET):
        table[ord(character)] = token
    known = np.where(codes < 128, codes, 127)
    return torch.from_numpy(table[known])


def documentation() -> str:
    """The topics in alphabetical order of their names, a blank line between them.

    Raises:
        InputError: this Python was installed without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError(
            "data set 'text': this Python has no pydoc_data.topics; expected the documentation "
            "topics that the standard library ships with"
        ) from None
    return "\n\n".join(topics[name].strip() for name in sorted(topics))


def load(options: TextOptions) -> Data:
    """Training windows from the beginning of the text, test windows from its end."""
    tokens = encode(documentation())
    cut = len(tokens) - int(len(tokens) * options.test_fraction)
    train = Windows(tokens[:cut], options.sequence_length, augment=options.augment)
    test = Windows(tokens[cut:], options.sequence_length)
    if not len(train) or not len(test):
        raise InputError(
            f"data set 'text': sequence_length: {options.sequence_length} is too long for "
            f"{cut} training and {len(tokens) - cut} test characters"
        )
    return Data(
        name="text",
        task="language-model",
        train=train,
        test=test,
        num_classes=VOCABULARY,
        input_shape=(options.sequence_length,),
        source=(
            f"pydoc_data.topics of Python {platform.python_version()}, {len(tokens)} characters; "
            f"the last {options.test_fraction:.0%} are the test set"
        ),
    )
