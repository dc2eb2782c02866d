"""The Run folder: everything measured and estimated, appended whole, read back as DataFrames."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.files import atomic_writer, remove_unfinished, user_path, writable_folder
from ttq_energy.run_tables import TABLES, Column, Table, read_table, read_text

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
MANIFEST = "run.json"
CHECKPOINTS = "checkpoints"

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "TABLES",
    "Column",
    "Run",
    "Table",
    "create_run",
    "load_run",
]


class Run:
    """One Run folder. Make one with :func:`create_run`, read one with :func:`load_run`.

    ``manifest`` is run.json: schema_version, status ("running", "trained", "interrupted", "failed"
    or "complete"), study, environment, and what the stages leave behind. Of several processes only
    one has ``writes``; the others follow its Run and write nothing.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], *, writes: bool = True) -> None:
        self.folder = folder
        self.manifest = manifest
        self.writes = writes
        self.tables = _Tables(self)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        return str(self.manifest["status"])

    @property
    def training(self) -> pd.DataFrame:
        return self.tables["training"]

    @property
    def measurements(self) -> pd.DataFrame:
        return self.tables["measurements"]

    @property
    def comparisons(self) -> pd.DataFrame:
        return self.tables["comparisons"]

    @property
    def traces(self) -> pd.DataFrame:
        return self.tables["traces"]

    @property
    def layers(self) -> pd.DataFrame:
        return self.tables["layers"]

    @property
    def estimates(self) -> pd.DataFrame:
        return self.tables["estimates"]

    def checkpoint(self, model: str, variant: str, seed: int = 0) -> Path:
        """Where the weights of a trained variant lie, whether they exist yet or not."""
        return (
            self.folder / CHECKPOINTS / f"{checkpoint_name(model, variant)}-seed{seed}.safetensors"
        )

    # -- writing ---------------------------------------------------------------------------------

    def append(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows to a table; the file is replaced whole, or left as it was.

        Columns left out are empty; a column that the table does not have is a programming error.
        """
        path = self.folder / TABLES[table].file
        self._write(table, rows, before=read_text(path) if path.exists() else "")

    def _write(self, table: str, rows: Iterable[Mapping[str, Any]], before: str) -> None:
        if not self.writes:
            return
        schema = TABLES[table]
        fresh = [dict(row) for row in rows]
        for row in fresh:
            extra = set(row) - set(schema.names)
            if extra:
                raise KeyError(f"{table} has no column {sorted(extra)}")
        path = self.folder / schema.file
        with atomic_writer(path, "wb") as stream:
            text = io.StringIO(newline="")
            text.write(before)
            writer = csv.writer(text, lineterminator="\n")
            if not before:
                writer.writerow(schema.names)
            for row in fresh:
                writer.writerow([_cell(row.get(name)) for name in schema.names])
            data = text.getvalue().encode()
            stream.write(gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)

    def put(self, table: str, rows: Iterable[Mapping[str, Any]], **where: str | int) -> None:
        """Write rows in the place of those whose columns equal ``where``, in one step.

        So a stage that is done again after an interrupt leaves no row twice.
        """
        path = self.folder / TABLES[table].file
        kept: list[dict[str, Any]] = []
        if path.exists():
            frame = self.tables[table]
            same = [
                all(row[column] == value for column, value in where.items())
                for row in frame.to_dict("records")
            ]
            kept = [
                {str(name): value for name, value in row.items() if not _missing(value)}
                for row, drop in zip(frame.to_dict("records"), same, strict=True)
                if not drop
            ]
        self._write(table, [*kept, *rows], before="")

    def update(self, **entries: Any) -> None:
        """Set entries of run.json and write it."""
        self.manifest.update(entries)
        if not self.writes:
            return
        with atomic_writer(self.folder / MANIFEST) as stream:
            json.dump(self.manifest, stream, indent=2, sort_keys=False, default=str)
            stream.write("\n")

    def add_message(self, text: str) -> None:
        """Record a line that the report shows: what was left out and why."""
        messages = self.manifest.get("messages", [])
        if text not in messages:
            self.update(messages=[*messages, text])

    def remove_unfinished(self) -> None:
        """Remove what a killed process left half-written; only its sole writer may."""
        for folder in (self.folder, self.folder / CHECKPOINTS, self.folder / "figures"):
            remove_unfinished(folder)

    # -- stages ----------------------------------------------------------------------------------

    def done(self, stage: str) -> bool:
        """Whether a stage of the job has already been finished, for ``--resume``."""
        return stage in self.manifest["stages"]

    def finish(self, stage: str, wall_s: float) -> None:
        """Record that a stage is finished and how long it took."""
        self.update(stages={**self.manifest["stages"], stage: {"wall_s": round(wall_s, 3)}})


class _Tables(Mapping[str, "pd.DataFrame"]):
    """The Run's tables by name, read from their files at each look."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in TABLES:
            raise unknown_name("table", name, TABLES)
        return read_table(self._run.folder / TABLES[name].file, TABLES[name])

    def __iter__(self) -> Iterator[str]:
        return iter(TABLES)

    def __len__(self) -> int:
        return len(TABLES)


def checkpoint_name(model: str, variant: str) -> str:
    """How the file of a variant's weights begins; not every pair has a name of its own."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in f"{model}-{variant}")


def create_run(
    folder: str | os.PathLike[str], study: Mapping[str, Any], environment: Mapping[str, Any]
) -> Run:
    """Begin a Run in a new or empty folder.

    Raises:
        InputError: the folder cannot be written, or already holds a Run or files of one.
    """
    path = Path(folder)
    if (path / MANIFEST).exists():
        raise InputError(f"{path}: already holds a run; give another --out, or --resume")
    writable_folder(path)
    writable_folder(path / CHECKPOINTS)
    _refuse_remains(path)
    run = Run(path, {})
    run.update(
        schema_version=SCHEMA_VERSION,
        status="running",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        study=dict(study),
        environment=dict(environment),
        stages={},
    )
    return run


def _refuse_remains(path: Path) -> None:
    """Refuse tables and weights of a run whose record is gone: the new run would take them over."""
    names = [table.file for table in TABLES.values() if (path / table.file).exists()]
    names += [f"{CHECKPOINTS}/{file.name}" for file in (path / CHECKPOINTS).iterdir()]
    if names:
        raise InputError(
            f"{path}: holds {names[0]} but no {MANIFEST}; expected a new or empty folder"
        )


def follow_run(folder: str | os.PathLike[str]) -> Run:
    """The Run that another process of the same job writes, begun or not."""
    path = Path(folder)
    manifest = load_run(path).manifest if (path / MANIFEST).exists() else {"stages": {}}
    return Run(path, manifest, writes=False)


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Read a Run back, finished or not.

    Raises:
        InputError: the folder is not a Run, or is one of a newer version.
    """
    path = user_path(folder, "run")
    file = path / MANIFEST
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = int(manifest["schema_version"])
    except FileNotFoundError:
        raise InputError(f"{path}: holds no {MANIFEST}; expected a run folder") from None
    except IsADirectoryError:
        raise InputError(f"{file}: is a folder; expected the record of a run, a file") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{file}: not the record of a run; expected JSON with the key 'schema_version'"
        ) from None
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{file}: written by a newer ttq-energy (schema {version}; this one reads up to "
            f"{SCHEMA_VERSION})"
        )
    missing = [key for key in ("status", "study", "environment", "stages") if key not in manifest]
    if missing:
        raise InputError(f"{file}: the key '{missing[0]}' is missing")
    return Run(path, manifest)


def _missing(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or value != value


def _cell(value: Any) -> Any:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return repr(value)
    return value
