"""Frozen dataclasses read strictly from mappings: unknown keys, types and ranges are checked.

A field's rules stand in its metadata: ``setting(default, low=..., high=..., choices=...)``.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.strict_yaml import Document, KeyPath

T = TypeVar("T")


def setting(
    default: Any = dataclasses.MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[str] | None = None,
    factory: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field with rules: low <= value <= high, value > above, value in choices.

    For a sequence the rules hold for each item.
    """
    rules = {"low": low, "high": high, "above": above, "choices": choices}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=rules)
    return dataclasses.field(default=default, metadata=rules)


def read_record(cls: type[T], data: Any, document: Document, path: KeyPath = ()) -> T:
    """Build the dataclass ``cls`` from a mapping.

    Args:
        cls: a frozen dataclass; nested dataclasses, tuples and ``X | None`` are followed.
        data: the mapping.
        document: where it came from, for messages.
        path: the keys that lead to ``data``.

    Raises:
        InputError: an unknown or missing key, a wrong type, a value out of range.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{document.where(path)}: expected a mapping of keys, got {_show(data)}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in data:
        if key not in fields:
            raise unknown_name("key", key, fields, document.where((*path, key)))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        here = (*path, name)
        if name in data:
            values[name] = _value(hints[name], data[name], document, here, field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{document.where(path)}: the key '{name}' is missing")
    try:
        return cls(**values)
    except InputError as error:
        key, _, rest = str(error).partition(": ")
        if (*path, key) in document.settings:
            raise InputError(f"{document.where((*path, key))}: {rest}") from None
        raise InputError(f"{document.where(path)}: {error}") from None


def check_record(record: Any) -> None:
    """Check a frozen dataclass made in Python against its fields' types and rules.

    Numbers of numpy and torch become Python's, so that records are equal and can be saved.

    Raises:
        InputError: a wrong type or a value out of range; names the class and the field.
    """
    cls = type(record)
    document = Document(cls.__name__, {})
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        given = getattr(record, field.name)
        value = _value(hints[field.name], given, document, (field.name,), field.metadata)
        object.__setattr__(record, field.name, value)


def _value(
    hint: Any, data: Any, document: Document, path: KeyPath, rules: Mapping[str, Any]
) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin in (types.UnionType, typing.Union):
        if data is None and type(None) in arguments:
            return None
        options = [a for a in arguments if a is not type(None)]
        if len(options) == 1:
            return _value(options[0], data, document, path, rules)
        failure: InputError | None = None
        for option in options:
            try:
                return _value(option, data, document, path, rules)
            except InputError as error:
                failure = failure or error
        assert failure is not None
        raise failure
    if dataclasses.is_dataclass(hint):
        if isinstance(data, typing.cast(type, hint)):
            check_record(data)
            return data
        return read_record(typing.cast(type, hint), data, document, path)
    if origin is tuple:
        if not isinstance(data, (list, tuple)):
            raise InputError(f"{document.where(path)}: expected a list, got {_show(data)}")
        return tuple(
            _value(arguments[0], item, document, (*path, index), rules)
            for index, item in enumerate(data)
        )
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, Mapping):
            raise InputError(f"{document.where(path)}: expected a mapping, got {_show(data)}")
        return dict(data)
    return _scalar(hint, data, document, path, rules)


def _scalar(
    hint: Any, data: Any, document: Document, path: KeyPath, rules: Mapping[str, Any]
) -> Any:
    where = document.where(path)
    data = _plain_number(data)
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        data = float(data)
    if hint is int and isinstance(data, float) and data.is_integer() and abs(data) < 2**53:
        data = int(data)
    wrong_bool = isinstance(data, bool) and hint is not bool
    if not isinstance(data, hint) or wrong_bool:
        raise InputError(f"{where}: expected {_TYPE_NAMES.get(hint, hint)}, got {_show(data)}")
    choices = rules.get("choices")
    if choices is not None and data not in choices:
        raise unknown_name("value", data, choices, where)
    if isinstance(data, (int, float)) and not isinstance(data, bool):
        _check_range(data, where, rules)
    return data


def _plain_number(data: Any) -> Any:
    """The Python number in a scalar of numpy or torch, which know their own as ``item()``."""
    if type(data).__module__.partition(".")[0] in ("numpy", "torch") and hasattr(data, "ndim"):
        return data.item() if data.ndim == 0 else data
    return data


def _check_range(value: float, where: str, rules: Mapping[str, Any]) -> None:
    low, high, above = rules.get("low"), rules.get("high"), rules.get("above")
    finite = isinstance(value, int) or math.isfinite(value)
    inside = (
        finite
        and (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
    )
    if not inside:
        wants = [
            f"at least {low}" if low is not None else "",
            f"above {above}" if above is not None else "",
            f"at most {high}" if high is not None else "",
            "finite" if not finite else "",
        ]
        raise InputError(
            f"{where}: must be {' and '.join(w for w in wants if w)}, got {_show(value)}"
        )


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _show(data: Any) -> str:
    """A wrong value for a message."""
    if data is None:
        return "nothing"
    if isinstance(data, Mapping):
        return "a mapping"
    if isinstance(data, list):
        return "a list"
    if isinstance(data, bool):
        return "true" if data else "false"
    try:
        text = repr(data)
    except ValueError:  # Python refuses to print whole numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as plain dicts and lists, ready for JSON or YAML."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value
