"""Data sets of the user's own: ``package.module:function`` returns a training and a test set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from ttq_energy import user_code
from ttq_energy.datasets.base import Data, TensorsInMemory
from ttq_energy.errors import InputError

KIND = "data set"
MOST_LABELS_READ = 100_000
"""Examples that are read to find the number of classes where the data set does not tell it."""


def load(name: str, options: Mapping[str, Any]) -> Data:
    """Call the user's function and check what it returns.

    Args:
        name: ``package.module:function``. The function returns a :class:`Data` or two torch
            Datasets of (x, y), training and test: x float images (channels, height, width) with
            an int y, or x and y int64 tokens of one length.
        options: its keyword arguments, but for ``workers``: processes that read examples.

    Raises:
        InputError: no such function, or it does not return that.
    """
    if not user_code.is_user_code(name):
        raise InputError(f"{KIND} '{name}': expected a name or package.module:function")
    function = user_code.load(name, KIND)
    arguments = {key: value for key, value in options.items() if key != "workers"}
    workers = options.get("workers", 0)
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        raise InputError(f"{KIND} '{name}': workers: must be a whole number from 0, got {workers}")
    result = user_code.call(function, name, KIND, arguments)
    if isinstance(result, Data):
        return result
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise InputError(
            f"{KIND} '{name}': expected (train, test), two torch Datasets, got "
            f"{type(result).__name__}"
        )
    train, test = (
        _checked(part, name, which) for part, which in zip(result, ("train", "test"), strict=True)
    )
    x, tokens = _example(train, name, "train")
    test_x, test_tokens = _example(test, name, "test")
    if x.shape != test_x.shape or tokens != test_tokens:
        raise InputError(
            f"{KIND} '{name}': training examples are {_kind(x)}, test examples {_kind(test_x)}; "
            "expected the same"
        )
    return Data(
        name=name,
        task="language-model" if tokens else "classification",
        train=train,
        test=test,
        num_classes=_num_classes(train, name),
        input_shape=tuple(x.shape),
        source=f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})",
        workers=workers,
    )


def _kind(x: torch.Tensor) -> str:
    return f"{x.dtype} {tuple(x.shape)}".removeprefix("torch.")


def _checked(part: Any, name: str, which: str) -> Dataset[Any]:
    try:
        size = len(part)
        part[0], part[size - 1]
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{KIND} '{name}': {which}: expected a torch Dataset with examples and a length: "
            f"{type(error).__name__}: {reason}"
        ) from error
    if isinstance(part, TensorDataset) and len(part.tensors) == 2:
        return TensorsInMemory(part)
    dataset: Dataset[Any] = part
    return dataset


def _example(dataset: Dataset[Any], name: str, which: str) -> tuple[torch.Tensor, bool]:
    """The first example's x, and whether it is tokens."""
    example = dataset[0]
    if not isinstance(example, (tuple, list)) or len(example) != 2:
        raise InputError(
            f"{KIND} '{name}': {which}[0]: expected (x, y), got {type(example).__name__}"
        )
    x, y = example
    if not isinstance(x, torch.Tensor):
        raise InputError(
            f"{KIND} '{name}': {which}[0]: expected x as a Tensor, got {type(x).__name__}; "
            "convert it in the Dataset"
        )
    if x.dtype == torch.int64 and isinstance(y, torch.Tensor) and y.shape == x.shape:
        return x, True
    single = isinstance(y, int) or (isinstance(y, torch.Tensor) and y.ndim == 0)
    if x.dtype != torch.float32 or not single:
        label = _kind(y) if isinstance(y, torch.Tensor) else type(y).__name__
        raise InputError(
            f"{KIND} '{name}': {which}[0]: expected x float32 and y one whole number, or both "
            f"int64 tokens of one shape; got x {_kind(x)}, y {label}"
        )
    return x, False


def _num_classes(dataset: Any, name: str) -> int:
    """What the data set says, else one more than its largest label."""
    inner = getattr(dataset, "dataset", dataset)
    told = getattr(inner, "num_classes", None)
    if isinstance(told, int):
        return told
    classes = getattr(inner, "classes", None)
    if isinstance(classes, (list, tuple)):
        return len(classes)
    labels = getattr(dataset, "labels", None)
    if isinstance(labels, torch.Tensor):
        return int(labels.max()) + 1
    if len(dataset) > MOST_LABELS_READ:
        raise InputError(
            f"{KIND} '{name}': give the training Dataset an attribute num_classes; "
            f"its {len(dataset)} examples are too many to read for it"
        )
    return max(int(torch.as_tensor(dataset[i][1]).max()) for i in range(len(dataset))) + 1
