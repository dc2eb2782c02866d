"""What to run: frozen dataclasses, read strictly from YAML. Units are SI."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ttq_energy.errors import InputError, quoted, unknown_name
from ttq_energy.files import profiles_folder, user_path
from ttq_energy.records import read_record, setting, to_plain
from ttq_energy.strict_yaml import Document, KeyPath, parse_yaml, read_yaml

DEFAULT_VARIANTS = ("fp32", "int8", "ttq", "ttq-int8")
MOST_EXAMPLES = 2**20
"""Largest batch of one inference call; beyond, a size is a slip of the keyboard."""
MOST_SEED = 2**32 - 1
"""Largest seed that every generator takes."""
MOST_THREADS = 1024
LONGEST_NAME = 100
"""Characters of a name: it is part of the names of files."""


@dataclass(frozen=True)
class DatasetSpec:
    """A data set by name, with its own options (see ``ttq_energy.datasets``)."""

    name: str
    options: Mapping[str, Any] = setting(factory=dict)


@dataclass(frozen=True)
class ModelSpec:
    """One network: built by name, trained on ``dataset``, or loaded from ``checkpoint``.

    Attributes:
        name: a registered name, ``timm:NAME``, ``torchvision:NAME``, ``hf:NAME`` or
            ``package.module:function``.
        label: what tables call it; the name if empty.
        options: keyword arguments of its builder.
        dataset: what it is trained and tested on; None profiles random inputs without training.
        checkpoint: a full-precision ``.safetensors`` file to start from instead of training.
    """

    name: str
    label: str = ""
    options: Mapping[str, Any] = setting(factory=dict)
    dataset: DatasetSpec | None = None
    checkpoint: str | None = None

    @property
    def title(self) -> str:
        return self.label or self.name

    @property
    def checkpoint_file(self) -> Path | None:
        """``checkpoint`` as a path; ``~`` is the user's home."""
        return None if self.checkpoint is None else user_path(self.checkpoint, "checkpoint")


@dataclass(frozen=True)
class FineTuneSpec:
    """How a quantized variant is trained from the full-precision weights; None keeps the value.

    ``epochs: 0`` quantizes without training.
    """

    epochs: int = setting(10, low=0)
    learning_rate: float | None = setting(None, above=0.0)
    weight_decay: float | None = setting(None, low=0.0)
    schedule: str | None = setting(None, choices=("cosine", "step", "linear", "constant"))
    milestones: tuple[int, ...] | None = setting(None, low=0)
    warmup_epochs: int | None = setting(None, low=0)


@dataclass(frozen=True)
class ParameterGroupSpec:
    """Settings of some layers that differ from the training's.

    Attributes:
        layers: the layers' names, with ``*`` and ``?`` for what varies ("classifier.*").
        weight_decay: None takes the training's.
        learning_rate_factor: multiplies the learning rate of each step.
    """

    layers: str
    weight_decay: float | None = setting(None, low=0.0)
    learning_rate_factor: float = setting(1.0, low=0.0)


@dataclass(frozen=True)
class TrainingSpec:
    """Optimizer, schedule and selection rule.

    Attributes:
        epochs: of full-precision training.
        select: which epoch's weights and accuracy are reported: the last, or the best on the test
            set (optimistic; the report says so).
        epsilon: of Adam and AdamW; None takes torch's.
        scale_weight_decay: whether weight decay also acts on learned scales (Wp, Wn).
        parameter_groups: layers with settings of their own; the first that matches counts.
        fine_tune: of each quantized variant, from the full-precision weights.
    """

    epochs: int = setting(20, low=0)
    batch_size: int = setting(64, low=1)
    optimizer: str = setting("sgd", choices=("sgd", "adam", "adamw"))
    learning_rate: float = setting(0.1, above=0.0)
    momentum: float = setting(0.9, low=0.0, high=1.0)
    nesterov: bool = False
    weight_decay: float = setting(1e-4, low=0.0)
    scale_weight_decay: bool = False
    epsilon: float | None = setting(None, above=0.0)
    parameter_groups: tuple[ParameterGroupSpec, ...] = ()
    schedule: str = setting("cosine", choices=("cosine", "step", "linear", "constant"))
    milestones: tuple[int, ...] = setting((), low=0)
    gamma: float = setting(0.1, above=0.0, high=1.0)
    warmup_epochs: int = setting(0, low=0)
    label_smoothing: float = setting(0.0, low=0.0, high=1.0)
    gradient_clip: float | None = setting(None, above=0.0)
    precision: str = setting("fp32", choices=("fp32", "bf16"))
    compile: bool = False
    select: str = setting("last", choices=("last", "best"))
    fine_tune: FineTuneSpec = setting(factory=FineTuneSpec)

    def __post_init__(self) -> None:
        if self.epsilon is not None and self.optimizer == "sgd":
            raise InputError("epsilon: goes with the optimizers adam and adamw, not with sgd")


@dataclass(frozen=True)
class VariantSpec:
    """One way to quantize and run a network.

    Attributes:
        name: a built-in variant (see ``ttq_energy.variants``), or any label when ``quantizer`` or
            ``of`` is given.
        quantizer: a quantizer configuration as a mapping with ``type`` (``{type: TTQ,
            threshold: 0.1}``); None takes the built-in variant's.
        activations: "fp32" or "int8"; None takes the built-in variant's.
        of: runs the checkpoint of another variant (``ttq-int8`` runs that of ``ttq``).
        start: "fp32" fine-tunes from the full-precision weights, "scratch" does not.
        skip: layers kept in full precision; None is the default, first and last.
    """

    name: str
    quantizer: Mapping[str, Any] | None = None
    activations: str | None = setting(None, choices=("fp32", "int8", "bf16"))
    of: str | None = None
    start: str = setting("fp32", choices=("fp32", "scratch"))
    skip: tuple[str, ...] | None = None


@dataclass(frozen=True)
class MeasurementSpec:
    """The measuring protocol.

    Attributes:
        batch_sizes: examples in one inference call.
        device: "cpu", "cuda" or "cuda:N".
        threads: CPU threads; None takes torch's number.
        meters: names of meters; empty takes every usable one, or CodeCarbon's model where none is.
        block_s: shortest block; it grows to 20 update periods of the slowest sensor.
        idle_s: length of each idle window.
        warmup_s: at most this long until a steady state.
        min_rounds, max_rounds: interleaved rounds; each measures every variant once.
        target_width: stop when every ratio's 95 % interval is narrower than this (high/low - 1).
        budget_s: at most this long for one model and batch size.
    """

    batch_sizes: tuple[int, ...] = setting((1, 64), low=1, high=MOST_EXAMPLES)
    device: str = "cpu"
    threads: int | None = setting(None, low=1, high=MOST_THREADS)
    meters: tuple[str, ...] = ()
    block_s: float = setting(0.5, above=0.0)
    idle_s: float = setting(2.0, low=0.0)
    warmup_s: float = setting(5.0, low=0.0)
    min_rounds: int = setting(6, low=1)
    max_rounds: int = setting(30, low=1)
    target_width: float = setting(0.04, above=0.0)
    budget_s: float = setting(120.0, above=0.0)

    def __post_init__(self) -> None:
        if not self.batch_sizes:
            raise InputError("batch_sizes: expected at least one batch size")
        _refuse_twice("batch_sizes", self.batch_sizes)
        if self.max_rounds < self.min_rounds:
            raise InputError(
                f"max_rounds: must be at least min_rounds ({self.min_rounds}), "
                f"got {self.max_rounds}"
            )


@dataclass(frozen=True)
class Study:
    """Everything that one run needs to know."""

    name: str
    models: tuple[ModelSpec, ...]
    description: str = ""
    seeds: tuple[int, ...] = setting((0,), low=0, high=MOST_SEED)
    training: TrainingSpec | None = None
    variants: tuple[VariantSpec, ...] = tuple(VariantSpec(name) for name in DEFAULT_VARIANTS)
    measurement: MeasurementSpec | None = setting(factory=MeasurementSpec)
    targets: tuple[str, ...] = ()
    country: str | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InputError("name: expected a name for the study, got ''")
        for key in ("models", "variants", "seeds"):
            if not getattr(self, key):
                raise InputError(f"{key}: expected at least one")
        for key, names in (
            ("name", [self.name]),
            ("variants", [v.name for v in self.variants]),
            ("models", [m.title for m in self.models]),
        ):
            for name in names:
                _check_name(key, name)
            _refuse_twice(key, names)
        _refuse_twice("seeds", self.seeds)
        _refuse_twice("targets", self.targets)

    @property
    def folder_name(self) -> str:
        """The name as part of a folder's name: letters, digits, ``-``, ``_`` and ``.`` alone."""
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.name)
        return safe.lstrip(".") or "study"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``study_from_dict`` reads it back."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def _refuse_twice(key: str, names: Sequence[str | int]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{key}: '{name}' stands twice")


def _check_name(key: str, name: str) -> None:
    """Refuse a name that tables, stage keys and files cannot bear."""
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{key}: expected a name as text, got {name!r}")
    if not name.isprintable():
        raise InputError(f"{key}: expected a name of printable characters, got {quoted(name)}")
    if len(name) > LONGEST_NAME:
        raise InputError(
            f"{key}: expected a name of at most {LONGEST_NAME} characters, got {len(name)}"
        )


def load_study(path: str | os.PathLike[str], overrides: Mapping[str, str] | None = None) -> Study:
    """Read a study from a YAML file, or a shipped one by its bare name ("quickstart").

    Args:
        path: the file or shipped study.
        overrides: ``KEY=VALUE`` settings of the command line: dotted keys, values in YAML.

    Raises:
        InputError: anything wrong in it, in one line.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"study: expected a path or a shipped study's name, got {path!r}")
    text = str(user_path(path, "study"))
    if os.sep not in text and not text.endswith((".yaml", ".yml")) and not os.path.exists(text):
        folder = profiles_folder("studies")
        shipped = sorted(file.stem for file in folder.glob("*.yaml"))
        if text not in shipped:
            raise unknown_name("study", text, shipped)
        text = str(folder / f"{text}.yaml")
    elif text.endswith(".yaml") and not os.path.exists(text):
        _hint_at_shipped(text)
    document = read_yaml(text, "study")
    data = _expand(document.data)
    for key, value in (overrides or {}).items():
        document.settings[_override(data, key, value)] = key
    return study_from_dict(data, document)


def _hint_at_shipped(text: str) -> None:
    name = text.removesuffix(".yaml")
    if (profiles_folder("studies") / f"{name}.yaml").is_file() and os.sep not in name:
        raise InputError(f"{text}: no such study; the shipped one is called '{name}'")


def study_from_dict(data: Any, document: Document | None = None) -> Study:
    """Build a study from plain data; ``document`` tells messages where it came from."""
    source = document or Document("study", data)
    return read_record(Study, _expand(data), source)


def _expand(data: Any) -> Any:
    """Names may stand where a mapping with only a name would: models, datasets and variants."""
    if not isinstance(data, Mapping):
        return data
    result = dict(data)
    for key in ("models", "variants"):
        if isinstance(result.get(key), (list, tuple)):
            result[key] = [_named(item) for item in result[key]]
    if isinstance(result.get("models"), list):
        result["models"] = [
            {**model, "dataset": _named(model["dataset"])}
            if isinstance(model, Mapping) and "dataset" in model
            else model
            for model in result["models"]
        ]
    return result


def _named(item: Any) -> Any:
    return {"name": item} if isinstance(item, str) else item


def _override(data: Any, dotted: str, text: str) -> KeyPath:
    """Set one key; gives its path."""
    where = f"--set {dotted}"
    keys = dotted.split(".")
    if not all(keys):
        raise InputError(f"{where}: expected keys with one dot between them, such as a.b=1")
    path: list[str | int] = []
    for index, key in enumerate(keys[:-1]):
        if isinstance(data, list):
            position = _list_index(key, data, where)
            path.append(position)
            data = data[position]
            _refuse_single(data, where, keys[: index + 1])
            continue
        path.append(key)
        if data.get(key) is None:
            data[key] = {}
        data = data[key]
        _refuse_single(data, where, keys[: index + 1])
    value = parse_yaml(f"value: {text}", source=where, what="value").data
    if len(value) > 1:
        raise InputError(f"{where}: expected one value, got several lines")
    last: Any = _list_index(keys[-1], data, where) if isinstance(data, list) else keys[-1]
    data[last] = value["value"]
    return (*path, last)


def _refuse_single(data: Any, where: str, keys: list[str]) -> None:
    if not isinstance(data, (dict, list)):
        raise InputError(f"{where}: '{'.'.join(keys)}' holds a single value")


def _list_index(key: str, items: list[Any], where: str) -> int:
    if not (key.isascii() and key.isdigit()) or int(key[:9]) >= len(items):
        raise InputError(f"{where}: '{key}' should be a position from 0 to {len(items) - 1}")
    return int(key)


def shortened(study: Study) -> Study:
    """The same path in well under a minute, for checks: one epoch, few short rounds."""
    training = study.training and replace(
        study.training, epochs=1, fine_tune=replace(study.training.fine_tune, epochs=1)
    )
    measurement = study.measurement and replace(
        study.measurement, block_s=0.05, idle_s=0.2, warmup_s=0.5, min_rounds=3, max_rounds=3
    )
    return replace(study, training=training, measurement=measurement)
