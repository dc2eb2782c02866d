"""The networks by name: what each is, its options, and how it is built. Imports without torch."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.models import options as model_options
from ttq_energy.records import read_record
from ttq_energy.strict_yaml import Document

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class ModelInfo:
    """What ``ttq-energy models`` prints of one network, all with its default options.

    Attributes:
        name: what studies call it.
        meaning: one line for people.
        parameters: trainable numbers.
        input_shape: of one input: channels, height, width; or tokens.
        source: where the network is published.
    """

    name: str
    meaning: str
    parameters: int
    input_shape: tuple[int, ...]
    source: str


@dataclass(frozen=True)
class OptionInfo:
    """One option of a network, with the value that it has where none is given."""

    name: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class Entry:
    """A network by name.

    Attributes:
        options: dataclass of what it can be given.
        builder: ``module:function`` in this package; takes an ``options`` and ``fixed``.
        fixed: what else the builder is given.
    """

    name: str
    meaning: str
    parameters: int
    source: str
    options: type[model_options.ImageOptions] | type[model_options.TokenOptions]
    builder: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def info(self) -> ModelInfo:
        shape = self.options().input_shape
        return ModelInfo(self.name, self.meaning, self.parameters, shape, self.source)


_HE = "He et al. 2015, arXiv 1512.03385"
_VIT = "Dosovitskiy et al. 2020, arXiv 2010.11929"


def _cifar_resnet(depth: int, parameters: int) -> Entry:
    return Entry(
        f"resnet{depth}",
        f"ResNet-{depth} for CIFAR, shortcuts without parameters",
        parameters,
        _HE,
        model_options.CifarResNetOptions,
        "resnet:cifar_resnet",
        {"depth": depth},
    )


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _cifar_resnet(20, 269_722),
        _cifar_resnet(32, 464_154),
        _cifar_resnet(44, 658_586),
        _cifar_resnet(56, 853_018),
        Entry(
            "alexnet",
            "AlexNet, one column; variant: original (two columns), ttq (batch normalization)",
            61_100_840,
            "Krizhevsky 2014, arXiv 1404.5997; Krizhevsky et al., NeurIPS 2012",
            model_options.AlexNetOptions,
            "alexnet:alexnet",
        ),
        Entry(
            "vgg7",
            "VGG-7 for CIFAR, as in ternary weight networks",
            12_979_082,
            "Li et al. 2016, arXiv 1605.04711",
            model_options.VGG7Options,
            "vgg:vgg7",
        ),
        Entry(
            "vgg16",
            "VGG-16",
            138_357_544,
            "Simonyan, Zisserman 2014, arXiv 1409.1556",
            model_options.VGG16Options,
            "vgg:vgg16",
        ),
        Entry(
            "resnet18",
            "ResNet-18",
            11_689_512,
            _HE,
            model_options.ImageOptions,
            "resnet:resnet18",
        ),
        Entry(
            "resnet50",
            "ResNet-50, striding in the 3x3 convolutions",
            25_557_032,
            _HE,
            model_options.ImageOptions,
            "resnet:resnet50",
        ),
        Entry(
            "mobilenetv2",
            "MobileNetV2",
            3_504_872,
            "Sandler et al. 2018, arXiv 1801.04381",
            model_options.MobileNetV2Options,
            "mobilenet:mobilenetv2",
        ),
        Entry(
            "vit-s16",
            "vision transformer S/16",
            22_050_664,
            f"{_VIT}; Touvron et al. 2020, arXiv 2012.12877",
            model_options.ViTOptions,
            "vit:vit",
            {"width": 384, "depth": 12, "heads": 6},
        ),
        Entry(
            "vit-b16",
            "vision transformer B/16",
            86_567_656,
            _VIT,
            model_options.ViTOptions,
            "vit:vit",
            {"width": 768, "depth": 12, "heads": 12},
        ),
        Entry(
            "lstm-lm",
            "LSTM language model",
            958_945,
            "Zaremba et al. 2014, arXiv 1409.2329",
            model_options.LSTMOptions,
            "lstm:lstm_lm",
        ),
        Entry(
            "transformer-lm",
            "decoder-only transformer language model with a KV cache",
            828_800,
            "Touvron et al. 2023, arXiv 2302.13971",
            model_options.TransformerOptions,
            "transformer:transformer_lm",
        ),
    )
}

PREFIXES = ("timm", "torchvision", "hf")
"""Names that lead into other packages, as in ``timm:NAME``."""


def available() -> list[ModelInfo]:
    """The networks by name; their figures are stored, and none is built for this."""
    return [entry.info for entry in ENTRIES.values()]


def build(name: str, **options: Any) -> nn.Module:
    """Make a network with fresh weights from torch's random state.

    Args:
        name: a registered name (see :func:`available`), ``timm:NAME``, ``torchvision:NAME``,
            ``hf:NAME`` or ``package.module:function``.
        options: of that network; see :func:`options_of` for a registered one.

    Raises:
        InputError: an unknown name or option, a value out of range, or a package that is not
            installed.
    """
    _check_name(name)
    if ":" in name:
        own: nn.Module = _outside().build(name, options)
        return own
    entry = _entry(name)
    chosen = _read(entry, options)
    module, _, function = entry.builder.partition(":")
    builder = getattr(importlib.import_module(f"ttq_energy.models.{module}"), function)
    model: nn.Module = builder(chosen, **entry.fixed)
    return model


def example_input(name: str, batch_size: int = 1, **options: Any) -> torch.Tensor:
    """A batch that the network of that name and options takes: random, the same at every call.

    Returns:
        (batch_size, channels, height, width) float32 or (batch_size, tokens) int64.

    Raises:
        InputError: as :func:`build`, or what a network of the user's takes is not known.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size: must be a whole number of at least 1, got {batch_size!r}")
    _check_name(name)
    if ":" in name:
        own: torch.Tensor = _outside().example_input(name, batch_size, options)
        return own
    batch: torch.Tensor = _read(_entry(name), options).example_input(batch_size)
    return batch


def options_of(name: str) -> list[OptionInfo]:
    """The options of a registered network; InputError where there is no network of that name."""
    _check_name(name)
    kind = _entry(name).options
    meanings: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        meanings |= _attributes(cls.__doc__ or "")
    return [OptionInfo(f.name, f.default, meanings.get(f.name, "")) for f in fields(kind)]


def _attributes(docstring: str) -> dict[str, str]:
    """What a class's docstring says of its attributes, each in one line."""
    found: dict[str, str] = {}
    name = ""
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    for line in section.splitlines():
        head = re.fullmatch(r"    (\w+): (.*)", line)
        if head:
            name, found[head[1]] = head[1], head[2]
        elif name:
            found[name] += " " + line.strip()
    return found


def _outside() -> Any:
    return importlib.import_module("ttq_energy.models.outside")


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise InputError(f"model: expected a name such as 'resnet20', got {name!r}")


def _entry(name: str) -> Entry:
    if name not in ENTRIES:
        raise unknown_name("model", name, ENTRIES)
    return ENTRIES[name]


def _read(entry: Entry, options: Mapping[str, Any]) -> Any:
    preset = options.get("preset")
    given = {**model_options.PRESETS.get(str(preset), {}), **options}
    source = f"model '{entry.name}'"
    return read_record(entry.options, given, Document(source, given))
