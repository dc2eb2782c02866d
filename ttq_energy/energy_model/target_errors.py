"""What a schema says is wrong, in words: which key, and what is allowed there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ttq_energy.errors import nearest

TYPES = {
    "object": "a mapping of keys",
    "array": "a list",
    "number": "a number",
    "integer": "a whole number",
    "string": "text",
    "boolean": "true or false",
}


def first_error(data: Any, schema: Mapping[str, Any]) -> tuple[tuple[str | int, ...], str] | None:
    """The first place where data and schema disagree, and one sentence about it; None if nowhere.

    Returns:
        The keys that lead to the place, and what was expected there.
    """
    import jsonschema

    not_a_number = _nan(data, ())
    if not_a_number is not None:
        return not_a_number, "expected a number, got nan"
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(data), key=lambda e: [str(p) for p in e.absolute_path])
    if not errors:
        return None
    error = _deepest(errors[0])
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        extra = next(key for key in error.instance if key not in error.schema["properties"])
        return (*path, extra), _unknown(extra, error.schema["properties"])
    return path, _sentence(error)


def _nan(node: Any, path: tuple[str | int, ...]) -> tuple[str | int, ...] | None:
    """Where a NaN stands: no range of a schema refuses it, for JSON has none."""
    if isinstance(node, float) and node != node:
        return path
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    found = (_nan(value, (*path, key)) for key, value in items)
    return next((place for place in found if place is not None), None)


def _deepest(error: Any) -> Any:
    """Inside a ``oneOf``, the alternative that was meant: the one of the value's own kind."""
    while error.validator in ("oneOf", "anyOf") and error.context:
        branches: dict[int, list[Any]] = {}
        for child in error.context:
            branches.setdefault(child.schema_path[0], []).append(child)
        fitting = [
            children
            for children in branches.values()
            if not any(c.validator == "type" and not c.path for c in children)
        ]
        wanted = min(fitting or branches.values(), key=lambda c: (_misses(c), len(c)))
        error = wanted[0]
    return error


def _misses(children: list[Any]) -> int:
    """Alternatives are told apart by the keys that they do not know."""
    return sum(child.validator == "additionalProperties" for child in children)


def _unknown(key: str, valid: Iterable[str]) -> str:
    names = sorted(valid)
    close = nearest(key, names)
    hint = f"did you mean '{close}'? " if close else ""
    return f"unknown key '{key}'; {hint}valid: {', '.join(names)}"


def _sentence(error: Any) -> str:
    value, rule = error.instance, error.validator_value
    if error.validator == "required":
        missing = next(key for key in rule if key not in value)
        return f"the key '{missing}' is missing"
    if error.validator == "enum":
        close = nearest(str(value), map(str, rule))
        hint = f"did you mean '{close}'? " if close else ""
        return f"unknown value '{value}'; {hint}valid: {', '.join(map(str, rule))}"
    if error.validator == "type":
        return f"expected {TYPES.get(str(rule), rule)}, got {value!r}"
    if error.validator in ("minimum", "maximum", "exclusiveMinimum"):
        return f"must be {_range(error.schema)}, got {value}"
    if error.validator == "contains":
        role = rule["properties"]["role"]["const"]
        return f"two levels have the role '{role}'; expected one, which may hold all tensors"
    if error.validator == "pattern":
        return f"expected lower-case letters, digits, dots and dashes, got '{value}'"
    if error.validator in ("minItems", "minLength"):
        return f"expected at least {rule} {'item' if isinstance(value, list) else 'letters'}"
    return str(error.message)


def _range(schema: Mapping[str, Any]) -> str:
    parts = [
        f"{words} {schema[key]:g}"
        for key, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
        )
        if key in schema
    ]
    return " and ".join(parts)
