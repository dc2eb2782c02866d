"""Functions and classes of the user's own, named ``package.module:function``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from ttq_energy.errors import InputError, nearest


def is_user_code(name: str) -> bool:
    """Whether ``name`` has the form ``package.module:attribute``."""
    module, colon, attribute = name.partition(":")
    parts = module.split(".")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in parts)


def load(name: str, kind: str) -> Any:
    """The object that ``package.module:attribute`` names; the working folder is importable.

    Args:
        name: module and attribute, with a colon between them.
        kind: what it should be, for messages ("model", "data set").

    Raises:
        InputError: there is no such module or attribute, or importing it fails.
    """
    module_name, _, attribute = name.partition(":")
    module = _import(module_name, name, kind)
    if not hasattr(module, attribute):
        close = nearest(attribute, [n for n in vars(module) if not n.startswith("_")])
        hint = f"; did you mean '{close}'?" if close else ""
        raise InputError(
            f"{kind} '{name}': the module '{module_name}' has no attribute '{attribute}'{hint}"
        )
    value = getattr(module, attribute)
    if not callable(value):
        raise InputError(
            f"{kind} '{name}': expected a function or class, got {type(value).__name__}"
        )
    return value


def call(function: Any, name: str, kind: str, options: Mapping[str, Any]) -> Any:
    """Call the user's function with options; an error in it is one line that names it.

    Raises:
        InputError: it raises, or does not take the options.
    """
    try:
        return function(**options)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{kind} '{name}': {_reason(error)}") from error


def _import(module_name: str, name: str, kind: str) -> Any:
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise InputError(
                f"{kind} '{name}': no module named '{error.name}' in the working folder or among "
                "the installed packages"
            ) from None
        raise InputError(f"{kind} '{name}': importing it fails: {_reason(error)}") from error
    except Exception as error:
        raise InputError(f"{kind} '{name}': importing it fails: {_reason(error)}") from error
    finally:
        if added:
            sys.path.remove(here)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
