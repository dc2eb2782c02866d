"""ImageNet (ILSVRC 2012 classification) from class folders or from the original tar files.

Tar files are read in place: nothing is extracted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ttq_energy.datasets.base import Data
from ttq_energy.datasets.imagenet_files import (
    ILSVRC2012,
    Published,
    find_training,
    find_validation,
)
from ttq_energy.datasets.photographs import AUGMENTATIONS, Photographs
from ttq_energy.errors import InputError
from ttq_energy.files import user_path
from ttq_energy.records import setting


@dataclass(frozen=True)
class ImageNetOptions:
    """Options of ImageNet.

    Attributes:
        root: the folder that holds ``train`` and ``val``, or the original tar files.
        image_size: height and width of an input.
        augmentation: of training images; see :class:`Photographs`.
        lighting: strength of random color; 0.1 as in AlexNet's paper, 0 for none.
        complete: whether all 1000 classes, 1281167 training and 50000 validation images must be
            there; false for a part of it.
        verify: whether every file is read once before training: MD5 sums of the tar files, first
            and last bytes of single images. Takes minutes.
        workers: processes that decode; not set: the number of usable cores, at most 8.
    """

    root: str = "data/imagenet"
    image_size: int = setting(224, low=32)
    augmentation: str = setting("inception", choices=AUGMENTATIONS)
    lighting: float = setting(0.0, low=0.0)
    complete: bool = True
    verify: bool = False
    workers: int | None = setting(None, low=0)


def load(options: ImageNetOptions, published: Published = ILSVRC2012) -> Data:
    """Find all images and their labels; each is decoded when it is needed.

    Args:
        options: where they lie and how they are prepared.
        published: counts, sizes and sums to check against; others serve tests.

    Raises:
        InputError: a folder or file is missing, incomplete or damaged.
    """
    root = user_path(options.root, "root")
    if not root.is_dir():
        raise InputError(
            f"data set 'imagenet': root: {root}: no such folder; expected one with train/ and "
            f"val/, or with {', '.join(file.name for file in published.archives)}"
        )
    classes, train = find_training(root, published, verify=options.verify)
    test = find_validation(root, classes, published, verify=options.verify)
    if options.complete:
        _check_count(root, "classes", len(classes), published.classes)
        _check_count(root, "training images", len(train.labels), published.training_images)
        _check_count(root, "validation images", len(test.labels), published.validation_images)
    workers = options.workers
    if workers is None:
        workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    part = "" if options.complete else f", {len(classes)} classes"
    return Data(
        name="imagenet",
        task="classification",
        train=Photographs(train, options.image_size, options.augmentation, options.lighting),
        test=Photographs(test, options.image_size),
        num_classes=len(classes),
        input_shape=(3, options.image_size, options.image_size),
        source=f"ILSVRC 2012{part}; tested on its validation set, one central crop",
        workers=workers,
    )


def _check_count(root: Path, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise InputError(
            f"{root}: incomplete: expected {expected} {what}, found {found}; set 'complete: false' "
            "to use a part on purpose"
        )
