"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009) from their python-version archives, or extracted.

Every file is checked against the published MD5 sum before it is read.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttq_energy.datasets.base import Data, ImagesInMemory, channel_statistics
from ttq_energy.errors import InputError
from ttq_energy.files import user_path
from ttq_energy.records import setting

SHAPE = (3, 32, 32)
PER_PIXEL_SCALE = 128.0
"""What TTQ's released code divides by after subtracting the mean image."""


@dataclass(frozen=True)
class CifarOptions:
    """Options of CIFAR-10 and CIFAR-100.

    Attributes:
        root: the archive, the extracted folder, or a folder that holds either.
        augment: whether training images are padded by 4 zeros on each side, cut to 32 x 32 at a
            random place and mirrored at random (He et al., arXiv 1512.03385, section 4.2).
        normalization: "channel" subtracts each channel's mean and divides by its deviation;
            "per-pixel" subtracts the mean training image and divides by 128.
    """

    root: str = "data"
    augment: bool = True
    normalization: str = setting("channel", choices=("channel", "per-pixel"))


@dataclass(frozen=True)
class Layout:
    """Names, sizes and MD5 sums of one data set's files.

    Attributes:
        archive, archive_bytes, archive_md5: of the file as published.
        folder: what it holds.
        train, test: batch files in that folder and their MD5 sums.
        label_key: of the labels in a batch.
        num_classes: of the labels.
    """

    archive: str
    archive_bytes: int
    archive_md5: str
    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    label_key: str
    num_classes: int


LAYOUTS = {
    "cifar10": Layout(
        archive="cifar-10-python.tar.gz",
        archive_bytes=170498071,
        archive_md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        label_key="labels",
        num_classes=10,
    ),
    "cifar100": Layout(
        archive="cifar-100-python.tar.gz",
        archive_bytes=169001437,
        archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        label_key="fine_labels",
        num_classes=100,
    ),
}
"""From https://www.cs.toronto.edu/~kriz/cifar.html; the sums of single files are torchvision's."""


def load(options: CifarOptions, name: str, layout: Layout | None = None) -> Data:
    """Read all images into memory.

    Args:
        options: where they lie and how they are prepared.
        name: "cifar10" or "cifar100".
        layout: other names and sums than the published ones, for tests.

    Raises:
        InputError: a file is missing, incomplete or damaged.
    """
    chosen = layout or LAYOUTS[name]
    read, place = _reader(user_path(options.root, "root"), name, chosen)
    images, labels = _read_all(read, place, chosen, chosen.train)
    test_images, test_labels = _read_all(read, place, chosen, chosen.test)
    if options.normalization == "per-pixel":
        mean = images.double().mean(dim=0).float()
        scale = torch.tensor(PER_PIXEL_SCALE)
    else:
        mean, scale = channel_statistics(images)
    return Data(
        name=name,
        task="classification",
        train=ImagesInMemory(
            images,
            labels,
            mean,
            scale,
            padding=4 if options.augment else 0,
            flip=options.augment,
        ),
        test=ImagesInMemory(test_images, test_labels, mean, scale),
        num_classes=chosen.num_classes,
        input_shape=SHAPE,
        source=f"{chosen.archive} (Krizhevsky 2009), checksums verified; its own test set",
    )


Read = Callable[[str], bytes]


def _reader(root: Path, name: str, layout: Layout) -> tuple[Read, str]:
    """How to get a batch file's bytes, and where from, for messages."""
    for folder in (root, root / layout.folder):
        if any((folder / file).is_file() for file in (*layout.train, *layout.test)):
            return _folder_reader(folder, layout), str(folder)
    for archive in (root, root / layout.archive):
        if archive.is_file():
            return _archive_reader(archive, layout), str(archive)
    raise InputError(
        f"data set '{name}': root: {root}: no such data; expected {layout.archive} "
        f"({layout.archive_bytes} bytes, MD5 {layout.archive_md5}) or the folder {layout.folder}"
    )


def _folder_reader(folder: Path, layout: Layout) -> Read:
    sums = {**layout.train, **layout.test}

    def read(file: str) -> bytes:
        path = folder / file
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; expected MD5 {sums[file]}") from None
        except OSError as error:
            raise InputError(f"{path}: cannot read it: {error.strerror}") from None
        _check_sum(path, hashlib.md5(data, usedforsecurity=False).hexdigest(), sums[file])
        return data

    return read


def _archive_reader(archive: Path, layout: Layout) -> Read:
    size = archive.stat().st_size
    if size != layout.archive_bytes:
        raise InputError(
            f"{archive}: {'incomplete' if size < layout.archive_bytes else 'not the archive'}: "
            f"expected {layout.archive_bytes} bytes, got {size}"
        )
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    _check_sum(archive, found, layout.archive_md5)
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                stream_of = tar.extractfile(member) if member.isfile() else None
                if stream_of is not None:
                    members[member.name] = stream_of.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{archive}: damaged: {error}") from None

    def read(file: str) -> bytes:
        member = f"{layout.folder}/{file}"
        if member not in members:
            raise InputError(f"{archive}: '{member}' is not in it")
        return members[member]

    return read


def _check_sum(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(f"{path}: damaged: expected MD5 {expected}, got {found}")


def _read_all(
    read: Read, place: str, layout: Layout, files: Mapping[str, str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 of several batch files."""
    images, labels = [], []
    for file in files:
        batch = _unpickle(read(file), f"{place}: {file}")
        try:
            pixels = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, *SHAPE)
            classes = np.asarray(batch[layout.label_key], dtype=np.int64)
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"{place}: {file}: not a batch of CIFAR's python version; expected 'data' of rows "
                f"of 3072 bytes and '{layout.label_key}'"
            ) from None
        if (
            len(pixels) != len(classes)
            or not ((classes >= 0) & (classes < layout.num_classes)).all()
        ):
            raise InputError(f"{place}: {file}: damaged: labels do not fit the images")
        images.append(pixels)
        labels.append(classes)
    return torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels))


class _ArraysOnly(pickle.Unpickler):
    """Reads Python 2 pickles of plain data and numpy arrays, and calls nothing else."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "encode"})

    def find_class(self, module: str, name: str) -> Any:
        package = module.partition(".")[0]
        if name not in self.ALLOWED or package not in ("numpy", "_codecs"):
            raise pickle.UnpicklingError(f"unexpected {module}.{name}")
        return super().find_class(module, name)


def _unpickle(data: bytes, place: str) -> Mapping[str, Any]:
    try:
        batch = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:
        raise InputError(f"{place}: damaged: {error}") from None
    if not isinstance(batch, Mapping):
        raise InputError(f"{place}: not a batch of CIFAR's python version")
    return batch
