"""YAML read strictly: duplicate keys refused, every key's line known, every error one line."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ttq_energy.errors import InputError, quoted

KeyPath = tuple[str | int, ...]
MOST_BYTES = 2**20
"""Largest file that is read; beyond, it is not one that people wrote, and parsing takes minutes."""
MOST_VALUES = 100_000
"""Keys, items and scalars of one document, what anchors repeat counted each time."""
_SPECIAL_KEYS = {
    "tag:yaml.org,2002:merge": "a merge of keys ('<<') is not read; write the keys out",
    "tag:yaml.org,2002:null": "expected a name as the key, got nothing",
}


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
        for inner, typed in self.settings.items():
            if path and inner[: len(path)] == path and path not in self.lines:
                return f"--set {typed}"
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
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise InputError(
                f"{file}: larger than {MOST_BYTES // 2**20} MiB; expected a {what} in YAML"
            )
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{file}: no such {what}") from None
    except IsADirectoryError:
        raise InputError(f"{file}: is a directory; expected a {what} in YAML") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{file}:{line}: not UTF-8 text; expected a {what} in YAML") from None
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
    except RecursionError:
        raise InputError(f"{source}: not valid YAML: nested too deeply") from None
    if node is None:
        raise InputError(f"{source}: the {what} is empty; expected a YAML mapping")
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{source}: expected a YAML mapping of keys to values")
    reader = _Reader(source)
    data = reader.construct(node, (), ())
    return Document(source, data, reader.lines)


class _Reader:
    """Plain data from YAML's nodes, and the line of each key."""

    def __init__(self, source: str) -> None:
        self.source, self.lines, self.values = source, dict[KeyPath, int](), 0

    def construct(self, node: yaml.Node, path: KeyPath, outer: tuple[yaml.Node, ...]) -> Any:
        """What a node holds; ``outer`` are the nodes around it, which it must not repeat."""
        line = node.start_mark.line + 1
        if any(node is one for one in outer):
            raise self._error(line, (), "an anchor that holds itself; expected plain values")
        self.values += 1
        if self.values > MOST_VALUES:
            raise self._error(line, path, f"more than {MOST_VALUES} keys and values")
        self.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, (*outer, node))
        if isinstance(node, yaml.SequenceNode):
            around = (*outer, node)
            return [
                self.construct(item, (*path, index), around)
                for index, item in enumerate(node.value)
            ]
        try:
            return _scalar(node)
        except _Ambiguous as error:
            raise self._error(line, path, str(error)) from None
        except (yaml.YAMLError, ValueError):
            raise self._error(line, path, f"cannot read the value {quoted(node.value)}") from None

    def _mapping(
        self, node: yaml.MappingNode, path: KeyPath, outer: tuple[yaml.Node, ...]
    ) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(line, path, "expected a name as the key, got a list or mapping")
            if key_node.tag in _SPECIAL_KEYS:
                raise self._error(line, path, _SPECIAL_KEYS[key_node.tag])
            key = str(key_node.value)
            here = (*path, key)
            if key in result:
                raise self._error(line, here, "this key stands twice")
            self.lines[here] = line
            result[key] = self.construct(value_node, here, outer)
        return result

    def _error(self, line: int, path: KeyPath, what: str) -> InputError:
        dotted = dotted_path(path)
        return InputError(f"{self.source}:{line}: {f'{dotted}: ' if dotted else ''}{what}")


_MISREAD = re.compile(r"[-+]?(0[0-7_]+|[0-9_]+(:[0-9_.]+)+)")
"""Octal without its letter, and base 60: YAML 1.1 reads ``010`` as 8 and ``1:30`` as 90."""


class _Ambiguous(Exception):
    """A value that YAML reads as another than people mean."""


def _scalar(node: yaml.Node) -> Any:
    value = yaml.SafeLoader("").construct_object(node, deep=True)
    if isinstance(value, (int, float)) and _MISREAD.fullmatch(str(node.value)):
        raise _Ambiguous(
            f"expected a plain number, got '{node.value}', which YAML reads as {value}"
        )
    if isinstance(value, str) and isinstance(node, yaml.ScalarNode) and node.style is None:
        return _number_or_text(value)
    return value


def _number_or_text(text: str) -> Any:
    """``1e-4`` is a number to people; YAML 1.1 reads it as text."""
    try:
        return float(text) if any(c.isdigit() for c in text) and "e" in text.lower() else text
    except ValueError:
        return text
