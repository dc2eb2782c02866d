"""Files written whole or not at all, and where the shipped profiles lie."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ttq_energy.errors import InputError


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and rename it over ``path`` when the block succeeds.

    Args:
        path: the file to write; its folder must exist.
        mode: "w" for UTF-8 text, "wb" for bytes.

    Raises:
        InputError: the folder cannot be written.
    """
    target = Path(path)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise InputError(f"{target}: cannot write here: {error.strerror}") from None
    try:
        os.chmod(temporary, 0o666 & ~_umask())
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with os.fdopen(descriptor, mode, **text) as stream:  # type: ignore[call-overload]
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Make the folder (with parents) and check that files can be written in it.

    Raises:
        InputError: it cannot be made or written, or a file of that name is in the way.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder}: a file is in the way; expected a folder") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot write here: {error.strerror}") from None
    return folder


def profiles_folder(kind: str) -> Path:
    """The shipped profiles of one kind ("targets" or "studies"): in the wheel, or the checkout."""
    package = Path(__file__).parent
    for root in (package / "profiles", package.parent / "profiles"):
        if (root / kind).is_dir():
            return root / kind
    raise InputError(f"profiles/{kind}: not found beside the package; reinstall ttq-energy")
