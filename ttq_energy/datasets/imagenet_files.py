"""Where ImageNet's images and labels lie: class folders, a flat folder, or the original tars."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttq_energy.datasets.photographs import Files
from ttq_energy.errors import InputError

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt"
META = f"{DEVKIT}/data/meta.mat"

END_BYTES = 1024

Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Archive:
    """One file as published; ``size`` in bytes, or None where only the sum is known."""

    name: str
    size: int | None
    md5: str


@dataclass(frozen=True)
class Published:
    """What a complete copy has."""

    training: Archive
    validation: Archive
    devkit: Archive
    classes: int
    training_images: int
    validation_images: int

    @property
    def archives(self) -> tuple[Archive, Archive, Archive]:
        return self.training, self.validation, self.devkit


ILSVRC2012 = Published(
    Archive("ILSVRC2012_img_train.tar", 147897477120, "1d675b47d978889d74fa0da5fadfb00e"),
    Archive("ILSVRC2012_img_val.tar", 6744924160, "29b22e2961454d5413ddabcf34fc5622"),
    Archive(f"{DEVKIT}.tar.gz", None, "fa75699e90414af021442c21a62c3abf"),
    classes=1000,
    training_images=1281167,
    validation_images=50000,
)
"""Sums as https://image-net.org gives them beside the downloads."""


class FolderImages:
    """Images as single files. Names are kept as bytes, which worker processes share."""

    def __init__(self, root: Path, names: Sequence[str], labels: Sequence[int]) -> None:
        self.root = root
        self._names = np.array([os.fsencode(name) for name in names])
        self.labels: Labels = np.array(labels, dtype=np.int64)

    def read(self, index: int) -> bytes:
        path = self.name(index)
        try:
            with open(path, "rb") as stream:
                return stream.read()
        except OSError as error:
            raise InputError(f"{path}: cannot read it: {error.strerror}") from None

    def name(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(bytes(self._names[index])))


class TarImages:
    """Images inside a tar file, read by their places in it."""

    def __init__(
        self, archive: Path, names: Sequence[str], places: Sequence[tuple[int, int]], labels: Labels
    ) -> None:
        self.archive = archive
        self._names = np.array([os.fsencode(name) for name in names])
        self._places = np.array(places, dtype=np.int64).reshape(-1, 2)
        self.labels = labels

    def read(self, index: int) -> bytes:
        offset, size = (int(value) for value in self._places[index])
        try:
            with self.archive.open("rb") as stream:
                stream.seek(offset)
                data = stream.read(size)
        except OSError as error:
            raise InputError(f"{self.archive}: cannot read it: {error.strerror}") from None
        if len(data) != size:
            raise InputError(f"{self.name(index)}: the archive ends inside it")
        return data

    def name(self, index: int) -> str:
        return f"{self.archive}: {os.fsdecode(bytes(self._names[index]))}"


# -- training images ------------------------------------------------------------------------------


def find_training(root: Path, published: Published, *, verify: bool) -> tuple[list[str], Files]:
    """Class names (WordNet ids) in the order of their labels, and the training images."""
    folder = root / "train"
    archive = root / published.training.name
    if folder.is_dir():
        classes = _subfolders(folder)
        return classes, _class_folders(folder, classes, verify=verify)
    if archive.is_file():
        _check_archive(archive, published.training, verify=verify)
        return _tar_of_tars(archive)
    raise InputError(f"{folder}: no such folder, and no {archive.name} beside it")


def _subfolders(folder: Path) -> list[str]:
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise InputError(f"{folder}: expected a folder for each class, found none")
    return names


def _class_folders(folder: Path, classes: Sequence[str], *, verify: bool) -> FolderImages:
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            raise InputError(f"{folder / name}: no such folder; expected images of this class")
        found = _images(folder / name, verify=verify)
        if not found:
            raise InputError(f"{folder / name}: expected images of this class, found none")
        names += [f"{name}/{image}" for image in found]
        labels += [label] * len(found)
    return FolderImages(folder, names, labels)


def _images(folder: Path, *, verify: bool) -> list[str]:
    """Names of the image files in a folder, sorted; none may be empty.

    Hidden files are left out: macOS writes one beside each image on foreign disks.
    """
    names = []
    for entry in os.scandir(folder):
        if entry.name.startswith(".") or not entry.name.lower().endswith(SUFFIXES):
            continue
        if not entry.is_file():
            what = "a link to nothing" if entry.is_symlink() else "no file"
            raise InputError(f"{entry.path}: damaged: expected an image, it is {what}")
        if entry.stat().st_size == 0:
            raise InputError(f"{entry.path}: damaged: expected an image, the file is empty")
        if verify:
            _check_ends(entry.path)
        names.append(entry.name)
    return sorted(names)


def _check_ends(path: str) -> None:
    """The first bytes of an image file, and that a JPEG's end marker stands near its end.

    Some of ImageNet's files have a few bytes behind the marker.
    """
    with open(path, "rb") as stream:
        head = stream.read(12)
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - END_BYTES))
        tail = stream.read()
    jpeg = head.startswith(b"\xff\xd8")
    if not jpeg and not head.startswith((b"\x89PNG", b"BM", b"RIFF")):
        raise InputError(f"{path}: damaged: expected an image, it begins with {head[:4]!r}")
    if jpeg and b"\xff\xd9" not in tail:
        raise InputError(f"{path}: damaged: the JPEG is not complete")


def _tar_of_tars(archive: Path) -> tuple[list[str], TarImages]:
    """The original training archive: one tar a class, named by its WordNet id."""
    members: dict[str, list[tuple[str, tuple[int, int]]]] = {}
    try:
        with archive.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as outer:
            for part in outer:
                if part.isfile() and part.name.endswith(".tar"):
                    name = Path(part.name).stem
                    members[name] = _members(stream, part.offset_data, part.size)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{archive}: damaged: {error}") from None
    if not members:
        raise InputError(f"{archive}: expected one tar a class in it, found none")
    classes = sorted(members)
    names = [f"{name}.tar: {image}" for name in classes for image, _ in members[name]]
    places = [place for name in classes for _, place in members[name]]
    labels = np.repeat(np.arange(len(classes)), [len(members[name]) for name in classes])
    return classes, TarImages(archive, names, places, labels.astype(np.int64))


class _Part(io.RawIOBase):
    """A stretch of a file, as a file."""

    def __init__(self, stream: Any, begin: int, size: int) -> None:
        self._stream, self._begin, self._size, self._at = stream, begin, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._stream.seek(self._begin + self._at)
        data: bytes = self._stream.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data


def _members(stream: Any, begin: int, size: int) -> list[tuple[str, tuple[int, int]]]:
    """Name, offset in ``stream`` and size of each image of the tar at ``begin``, sorted."""
    here = stream.tell()
    with tarfile.open(fileobj=_Part(stream, begin, size), mode="r:") as inner:
        found = [
            (member.name, (begin + member.offset_data, member.size))
            for member in inner
            if member.isfile() and member.name.lower().endswith(SUFFIXES)
        ]
    stream.seek(here)
    return sorted(found)


# -- validation images ----------------------------------------------------------------------------


def find_validation(
    root: Path, classes: Sequence[str], published: Published, *, verify: bool
) -> Files:
    """The validation images, labelled by their folders or by the development kit."""
    folder = root / "val"
    archive = root / published.validation.name
    if folder.is_dir():
        if any(entry.is_dir() for entry in os.scandir(folder)):
            return _class_folders(folder, classes, verify=verify)
        names = _images(folder, verify=verify)
        labels = _ground_truth(root, classes, published, verify=verify)
        _check_labels(folder, len(names), len(labels))
        return FolderImages(folder, names, labels.tolist())
    if archive.is_file():
        _check_archive(archive, published.validation, verify=verify)
        labels = _ground_truth(root, classes, published, verify=verify)
        try:
            with archive.open("rb") as stream:
                members = _members(stream, 0, archive.stat().st_size)
        except (tarfile.TarError, OSError) as error:
            raise InputError(f"{archive}: damaged: {error}") from None
        _check_labels(archive, len(members), len(labels))
        return TarImages(archive, [m[0] for m in members], [m[1] for m in members], labels)
    raise InputError(f"{folder}: no such folder, and no {archive.name} beside it")


def _check_labels(place: Path, images: int, labels: int) -> None:
    if images != labels:
        raise InputError(f"{place}: {images} images, but {GROUND_TRUTH} has {labels} labels")


def _ground_truth(
    root: Path, classes: Sequence[str], published: Published, *, verify: bool
) -> Labels:
    """The validation labels of the development kit, as positions in ``classes``."""
    truth, meta = _devkit(root, published, verify=verify)
    names = _class_names(meta, root / META)
    position = {name: index for index, name in enumerate(classes)}
    labels = []
    for number, line in enumerate(truth.decode("ascii", "replace").split(), 1):
        where = f"{root / GROUND_TRUTH}:{number}"
        if not line.isdigit() or int(line) not in names:
            raise InputError(f"{where}: expected a class from 1 to {len(names)}, got '{line}'")
        name = names[int(line)]
        if name not in position:
            raise InputError(f"{where}: class {name} has no training images")
        labels.append(position[name])
    return np.array(labels, dtype=np.int64)


def _devkit(root: Path, published: Published, *, verify: bool) -> tuple[bytes, bytes]:
    """Ground truth and class table, from the extracted kit or its archive."""
    truth, meta = root / GROUND_TRUTH, root / META
    if truth.is_file() and meta.is_file():
        return truth.read_bytes(), meta.read_bytes()
    archive = root / published.devkit.name
    if not archive.is_file():
        raise InputError(
            f"{truth}: no such file, and no {archive.name} beside it; the validation images are "
            "not in class folders, so the development kit must tell their classes"
        )
    _check_archive(archive, published.devkit, verify=True)
    try:
        with tarfile.open(archive) as tar:
            found = {m.name.lstrip("./"): m for m in tar.getmembers()}
            streams = [tar.extractfile(found[name]) for name in (GROUND_TRUTH, META)]
            contents = [stream.read() if stream else b"" for stream in streams]
    except KeyError as error:
        raise InputError(f"{archive}: {error} is not in it") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{archive}: damaged: {error}") from None
    return contents[0], contents[1]


def _class_names(meta: bytes, place: Path) -> dict[int, str]:
    """WordNet id of each class number; only leaves of the hierarchy are classes."""
    from scipy.io import loadmat

    try:
        table = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        return {
            int(row["ILSVRC2012_ID"]): str(row["WNID"])
            for row in table
            if int(row["num_children"]) == 0
        }
    except Exception as error:
        raise InputError(f"{place}: damaged: expected the class table: {error}") from None


def _check_archive(path: Path, archive: Archive, *, verify: bool) -> None:
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        state = "incomplete" if size < archive.size else "not the archive"
        raise InputError(f"{path}: {state}: expected {archive.size} bytes, got {size}")
    if not verify:
        return
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != archive.md5:
        raise InputError(f"{path}: damaged: expected MD5 {archive.md5}, got {found}")
