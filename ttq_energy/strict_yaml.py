"""YAML read strictly: duplicate keys refused, every key's line known, every error one line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ttq_energy.errors import InputError

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """Parsed YAML and where its keys stand.

    Attributes:
        source: the file's name, for messages.
        data: plain dicts, lists and scalars.
        lines: 1-based line of each key or list item, by its path from the top.
        settings: the ``--set`` keys, as typed, by the path of what each replaced.
    """

    source: str
    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    settings: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """``file:line: key.path`` of a key, for the head of an error message.

        What the command line set is blamed on it, not on the file: ``--set key``.
        """
        for end in range(len(path), 0, -1):
            if path[:end] in self.settings:
                inside = dotted_path(path[end:])
                typed = f"--set {self.settings[path[:end]]}"
                return f"{typed}: {inside}" if inside else typed
        line = next(
            (
                self.lines[path[:end]]
                for end in range(len(path), -1, -1)
                if path[:end] in self.lines
            ),
            None,
        )
        place = self.source if line is None else f"{self.source}:{line}"
        dotted = dotted_path(path)
        return f"{place}: {dotted}" if dotted else place


def dotted_path(path: KeyPath) -> str:
    """``("models", 0, "name")`` as ``models[0].name``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def read_yaml(path: str | os.PathLike[str], what: str = "file") -> Document:
    """Read one YAML mapping from a file.

    Args:
        path: the file.
        what: what the file should be, for messages ("study", "target").

    Raises:
        InputError: the file is missing, unreadable, empty, not YAML or not a mapping, or a key
            stands twice.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{file}: no such {what}") from None
    except IsADirectoryError:
        raise InputError(f"{file}: is a directory; expected a {what} in YAML") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: not text; expected a {what} in YAML") from None
    except OSError as error:
        raise InputError(f"{file}: cannot read the {what}: {error.strerror}") from None
    return parse_yaml(text, source=str(file), what=what)


def parse_yaml(text: str, source: str, what: str = "file") -> Document:
    """Parse one YAML mapping; see :func:`read_yaml` for the errors."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{source}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from None
    if node is None:
        raise InputError(f"{source}: the {what} is empty; expected a YAML mapping")
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{source}: expected a YAML mapping of keys to values")
    _refuse_cycles(node, [], source)
    lines: dict[KeyPath, int] = {}
    data = _construct(node, (), lines, source)
    return Document(source, data, lines)


def _refuse_cycles(node: yaml.Node, outer: list[yaml.Node], source: str) -> None:
    if any(node is one for one in outer):
        line = node.start_mark.line + 1
        raise InputError(f"{source}:{line}: an anchor that holds itself; expected plain values")
    if isinstance(node, yaml.MappingNode):
        children = [value for _, value in node.value]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    for child in children:
        _refuse_cycles(child, [*outer, node], source)


def _construct(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], source: str) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*path, key)
            line = key_node.start_mark.line + 1
            if key in result:
                raise InputError(f"{source}:{line}: {dotted_path(here)}: this key stands twice")
            lines[here] = line
            result[key] = _construct(value_node, here, lines, source)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(item, (*path, index), lines, source) for index, item in enumerate(node.value)
        ]
    try:
        return _scalar(node)
    except (yaml.YAMLError, ValueError):
        raise InputError(
            f"{source}:{node.start_mark.line + 1}: {dotted_path(path)}: "
            f"cannot read the value '{node.value}'"
        ) from None


def _scalar(node: yaml.Node) -> Any:
    value = yaml.SafeLoader("").construct_object(node, deep=True)
    if isinstance(value, str) and isinstance(node, yaml.ScalarNode) and node.style is None:
        return _number_or_text(value)
    return value


def _number_or_text(text: str) -> Any:
    """``1e-4`` is a number to people; YAML 1.1 reads it as text."""
    try:
        return float(text) if any(c.isdigit() for c in text) and "e" in text.lower() else text
    except ValueError:
        return text
