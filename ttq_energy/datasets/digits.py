"""Handwritten digits that ship with scikit-learn.

1797 images of 8 x 8 pixels with 17 grey levels: the test part of "Optical Recognition of
Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998, UCI Machine Learning Repository), written by 13
people. The split is drawn at random over images, so each writer is in both parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ttq_energy.datasets.base import Data, ImagesInMemory, channel_statistics
from ttq_energy.errors import InputError
from ttq_energy.records import setting

TEST_IMAGES = 360
GREY_LEVELS = 16
SIDE = 8


@dataclass(frozen=True)
class DigitsOptions:
    """Options of the digits.

    Attributes:
        size: height and width: 8 as scanned, or 16 or 32 by bilinear interpolation.
        augment: whether training images are shifted by up to one scanned pixel.
        split_seed: decides which 360 images are the test set, stratified by digit.
    """

    size: int = setting(SIDE, low=SIDE, high=32)
    augment: bool = True
    split_seed: int = setting(0, low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        if self.size not in (8, 16, 32):
            raise InputError(f"size: expected 8, 16 or 32, got {self.size}")


def load(options: DigitsOptions) -> Data:
    """1437 training and 360 test images, each pixel standardized by the training images."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.astype(np.float32) / GREY_LEVELS).view(-1, 1, SIDE, SIDE)
    if options.size != SIDE:
        images = torch.nn.functional.interpolate(
            images, size=(options.size, options.size), mode="bilinear", align_corners=False
        )
    targets = torch.from_numpy(labels.astype(np.int64))
    train, test = train_test_split(
        np.arange(len(targets)),
        test_size=TEST_IMAGES,
        stratify=labels,
        random_state=options.split_seed,
    )
    mean, scale = channel_statistics(images[train])
    return Data(
        name="digits",
        task="classification",
        train=ImagesInMemory(
            images[train],
            targets[train],
            mean,
            scale,
            padding=options.size // SIDE if options.augment else 0,
            fill=float(-mean / scale),
        ),
        test=ImagesInMemory(images[test], targets[test], mean, scale),
        num_classes=10,
        input_shape=(1, options.size, options.size),
        source=(
            "scikit-learn load_digits (UCI Optical Recognition of Handwritten Digits, test part); "
            f"stratified random split of its 1797 images with seed {options.split_seed}"
        ),
    )
