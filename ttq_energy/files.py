"""Files written whole or not at all, and where the shipped profiles lie."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ttq_energy.errors import InputError

UNFINISHED = ".unfinished"
"""Ends the names of temporary files."""
LOCK = ".lock"
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ENOENT)
"""What goes wrong with a file that could be opened: no room, a limit, a folder that was removed."""


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and rename it over ``path`` when the block succeeds.

    Args:
        path: the file to write; its folder must exist.
        mode: "w" for UTF-8 text, "wb" for bytes.

    Raises:
        InputError: the folder cannot be written, or there is no room left; the old file then
            stands, and nothing lies beside it.
    """
    target = Path(path)
    try:
        # A short beginning, so that a name as long as the system allows can be written.
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{target.name[:40]}.", suffix=UNFINISHED, dir=target.parent
        )
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
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in _NOT_WRITTEN:
            raise InputError(f"{target}: cannot be written: {error.strerror}") from None
        raise


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Remove what writers that were killed left in a folder; no other may be writing there."""
    for file in Path(folder).glob(f".*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            file.unlink()


def user_path(text: str | os.PathLike[str], where: str) -> Path:
    """A path as people type it: ``~`` is their home; shells leave it alone after ``=``.

    Args:
        text: the path.
        where: the argument or key that held it, for messages.

    Raises:
        InputError: it is empty, as an unset variable of a shell script is, or no path.
    """
    if not isinstance(text, str | os.PathLike):
        raise InputError(f"{where}: expected a path, got {text!r}")
    if not os.fspath(text):
        raise InputError(f"{where}: expected a path, got ''")
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no home is known
        return Path(text)


@contextlib.contextmanager
def sole_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder for this process alone, until the block or the process ends.

    Where the file system knows no locks, nothing is held.

    Raises:
        InputError: another process holds it.
    """
    path = Path(folder) / LOCK
    stream = _locked(path)
    try:
        yield
    finally:
        if stream is not None:
            with contextlib.suppress(OSError):
                path.unlink()
            stream.close()


def _locked(path: Path) -> IO[str] | None:
    import fcntl

    while True:
        try:
            stream = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path.parent}: cannot write here: {error.strerror}") from None
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip()
            stream.close()
            who = f"process {holder}" if holder else "another process"
            raise InputError(
                f"{path.parent}: {who} is writing this run; wait for it, or give another --out"
            ) from None
        except OSError:
            stream.close()
            return None
        # The one before may have removed the file between its opening and its locking.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                stream.truncate(0)
                stream.write(f"{os.getpid()}")
                stream.flush()
                return stream
        stream.close()


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
