"""The data sets by name. Imports without torch."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttq_energy.errors import unknown_name
from ttq_energy.records import read_record
from ttq_energy.strict_yaml import Document

if TYPE_CHECKING:
    from ttq_energy.datasets.base import Data


@dataclass(frozen=True)
class DataInfo:
    """One data set by name.

    Attributes:
        name: what studies call it.
        task: "classification" or "language-model".
        meaning: one line for people.
        needs: what must be on disk; empty where it ships with the installed packages.
    """

    name: str
    task: str
    meaning: str
    needs: str = ""


@dataclass(frozen=True)
class _Entry:
    info: DataInfo
    module: str
    options: str
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)


ENTRIES: dict[str, _Entry] = {
    entry.info.name: entry
    for entry in (
        _Entry(
            DataInfo(
                "digits", "classification", "1797 handwritten digits, 8 x 8, from scikit-learn"
            ),
            "digits",
            "DigitsOptions",
        ),
        _Entry(
            DataInfo("text", "language-model", "characters of Python's own documentation"),
            "text",
            "TextOptions",
        ),
        _Entry(
            DataInfo(
                "cifar10",
                "classification",
                "60000 photographs of 10 classes, 32 x 32",
                "cifar-10-python.tar.gz, or its folder",
            ),
            "cifar",
            "CifarOptions",
            {"name": "cifar10"},
        ),
        _Entry(
            DataInfo(
                "cifar100",
                "classification",
                "60000 photographs of 100 classes, 32 x 32",
                "cifar-100-python.tar.gz, or its folder",
            ),
            "cifar",
            "CifarOptions",
            {"name": "cifar100"},
        ),
        _Entry(
            DataInfo(
                "imagenet",
                "classification",
                "ILSVRC 2012: 1.28 million photographs of 1000 classes",
                "train/ and val/, or the three original tar files",
            ),
            "imagenet",
            "ImageNetOptions",
        ),
        _Entry(
            DataInfo("random", "classification", "random numbers of a network's input shape"),
            "synthetic",
            "RandomOptions",
        ),
    )
}


def available() -> list[DataInfo]:
    """The data sets by name."""
    return [entry.info for entry in ENTRIES.values()]


def load(name: str, **options: Any) -> Data:
    """Read a data set whole, or check all its files where it is read as it is used.

    Args:
        name: a registered name (see :func:`available`) or ``package.module:function``, which
            returns a training and a test Dataset.
        options: of that data set.

    Raises:
        InputError: an unknown name or option, a value out of range, or a file that is missing,
            incomplete or damaged.
    """
    if not isinstance(name, str):
        raise unknown_name("data set", name, ENTRIES)
    if ":" in name:
        module = importlib.import_module("ttq_energy.datasets.own")
        own: Data = module.load(name, options)
        return own
    if name not in ENTRIES:
        raise unknown_name("data set", name, ENTRIES)
    entry = ENTRIES[name]
    module = importlib.import_module(f"ttq_energy.datasets.{entry.module}")
    chosen = read_record(
        getattr(module, entry.options), options, Document(f"data set '{name}'", options)
    )
    data: Data = module.load(chosen, **entry.fixed)
    return data
