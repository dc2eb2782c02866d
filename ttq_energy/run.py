"""The Run folder: everything measured and estimated, appended whole, read back as DataFrames."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.files import atomic_writer, remove_unfinished, user_path, writable_folder

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
MANIFEST = "run.json"
CHECKPOINTS = "checkpoints"
_ENDS = ("\n", "\r")


@dataclass(frozen=True)
class Column:
    """One column: kind is "text", "int", "float" or "bool"; the name bears the unit."""

    name: str
    kind: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One tidy table of a Run and the file that holds it."""

    name: str
    file: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]


def _table(name: str, file: str, columns: str) -> Table:
    rows = [line.split("|") for line in columns.strip().splitlines()]
    return Table(name, file, tuple(Column(*(cell.strip() for cell in row)) for row in rows))


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        _table(
            "training",
            "training.csv",
            """
            model         | text  | network
            variant       | text  | how it was quantized
            seed          | int   | of initialisation and data order
            epoch         | int   | 1 for the first
            loss          | float | mean training loss of the epoch
            accuracy      | float | fraction right on the test set, 0 to 1
            accuracy_low  | float | 95 % Wilson interval
            accuracy_high | float | 95 % Wilson interval
            examples      | int   | in the test set
            wall_s        | float | of the epoch's training, testing not included
            energy_j      | float | of the same span
            energy_low_j  | float | 95 % interval
            energy_high_j | float | 95 % interval
            provenance    | text  | of energy_j
            zero_fraction | float | of the quantized weights
            w_pos         | float | mean of Wp over the quantized layers
            w_neg         | float | mean of Wn over the quantized layers
            selected      | bool  | the epoch whose weights are reported
        """,
        ),
        _table(
            "measurements",
            "measurements.csv",
            """
            model          | text  | network
            variant        | text  | how it was quantized and run
            device         | text  | cpu, cuda:0, ...
            batch_size     | int   | examples in one call
            round          | int   | 0 for the first; each round measures every variant once
            block          | int   | order in time over the whole model and batch size
            inferences     | int   | examples inferred in the block
            duration_s     | float | of the block
            domain         | text  | what the energy covers
            energy_j       | float | gross, of the block; empty where it could not be resolved
            energy_low_j   | float | 95 % interval
            energy_high_j  | float | 95 % interval
            idle_power_w   | float | of the domain, from idle windows around the block
            net_energy_j   | float | energy_j less idle_power_w x duration_s
            provenance     | text  | counter, integrated or modelled
            valid          | bool  | passes every validity gate
            invalid_reason | text  | why not
            kernel         | text  | the code that ran
            meter          | text  | the sensor's name
            idle_power_low_w  | float | 95 % interval of idle_power_w
            idle_power_high_w | float | 95 % interval of idle_power_w
            load_average   | float | of the machine over the last minute, at the block's end
            clock_mhz      | float | of the device's cores, at the block's end
            temperature_c  | float | of the device, at the block's end
        """,
        ),
        _table(
            "comparisons",
            "comparisons.csv",
            """
            model      | text  | network
            device     | text  | cpu, cuda:0, ...
            batch_size | int   | examples in one call
            domain     | text  | what the energy covers; "time" for latency
            baseline   | text  | the variant divided by
            variant    | text  | the variant compared
            quantity   | text  | gross_energy, net_energy or latency, each per inference
            ratio      | float | variant / baseline: below 1 the variant needs less
            ratio_low  | float | 95 % interval
            ratio_high | float | 95 % interval
            rounds     | int   | paired rounds that entered
            verdict    | text  | saves, costs or undecided
            provenance | text  | counter, integrated or modelled; timed for latency
        """,
        ),
        _table(
            "traces",
            "traces.csv.gz",
            """
            model      | text  | network
            device     | text  | cpu, cuda:0, ...
            batch_size | int   | examples in one call
            domain     | text  | what the power covers
            t_s        | float | monotonic, 0 at the start of the model and batch size
            power_w    | float | as sampled, or the mean between two counter readings
            phase      | text  | warmup, idle or block
            variant    | text  | of the block; empty when idle
            block      | int   | as in measurements; -1 outside blocks
            provenance | text  | counter, integrated or modelled
        """,
        ),
        _table(
            "layers",
            "layers.csv",
            """
            model                | text  | network
            variant              | text  | how it was quantized
            layer                | text  | the module's path
            op                   | text  | what it computes
            macs                 | int   | dense multiply-accumulates of one inference
            multiplies           | int   | really needed, zeros of ternary weights left out
            adds                 | int   | really needed, zeros of ternary weights left out
            weight_elements      | int   |
            weight_bits          | float | stored bits of one weight
            weight_bytes         | float | stored bytes, scales included
            weight_zero_fraction | float | 0 to 1
            input_elements       | int   | read by one inference
            output_elements      | int   | written by one inference
            activation_bits      | int   | width of the input as computed with
            supported            | bool  | False: not counted, and nothing is known of it
        """,
        ),
        _table(
            "estimates",
            "estimates.csv",
            """
            model         | text  | network
            variant       | text  | how it was quantized
            target        | text  | the accelerator
            layer         | text  | the module's path
            component     | text  | arithmetic, a storage level, dram, decode or static
            energy_j      | float | of one inference, modelled
            energy_low_j  | float | 95 % range of the coefficients
            energy_high_j | float | 95 % range of the coefficients
            latency_s     | float | of the layer; the same on each of its components
        """,
        ),
    )
}


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
        self._write(table, rows, before=_read_text(path) if path.exists() else "")

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
        return _read_table(self._run.folder / TABLES[name].file, TABLES[name])

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


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def _read_table(path: Path, schema: Table) -> pd.DataFrame:
    import pandas as pd

    kinds = {"text": "str", "int": "Int64", "float": "float64", "bool": "boolean"}
    types = {column.name: kinds[column.kind] for column in schema.columns}
    if not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})
    text = _checked_text(path)
    try:
        frame = pd.read_csv(
            io.StringIO(text, newline=""),
            dtype=types,
            keep_default_na=False,
            na_values={name: [""] for name, kind in types.items() if kind != "str"},
        )
    except ValueError as error:
        what = (
            _first_wrong_cell(text, schema)
            or (f"expected CSV text that begins with its column names ({error})".splitlines()[0])
        )
        raise InputError(f"{path}: damaged table: {what}") from None
    absent = [name for name in schema.names if name not in frame.columns]
    if absent:
        raise InputError(f"{path}: the column '{absent[0]}' is missing")
    for name, kind in types.items():
        if kind == "boolean" and not frame[name].isna().any():
            frame[name] = frame[name].astype(bool)
        if kind == "Int64" and not frame[name].isna().any():
            frame[name] = frame[name].astype("int64")
    return frame


def _checked_text(path: Path) -> str:
    """A table's text, whole.

    Raises:
        InputError: it is no file, no text, or its last row was cut off, as by a full disk.
    """
    kind = "gzip-compressed CSV text" if path.suffix == ".gz" else "CSV text"
    expected = f"expected {kind} in UTF-8, as a run writes it"
    try:
        text = _read_text(path)
    except IsADirectoryError:
        raise InputError(f"{path}: damaged table: is a folder; {expected}") from None
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: damaged table: holds bytes that are no text; {expected}"
        ) from None
    except (EOFError, zlib.error):
        raise InputError(f"{path}: damaged table: cut off or corrupt; {expected}") from None
    except gzip.BadGzipFile:
        raise InputError(f"{path}: damaged table: is not gzip; {expected}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; {expected}") from None
    _refuse_cut_rows(path, text)
    return text


def _refuse_cut_rows(path: Path, text: str) -> None:
    """Refuse a row of fewer or more cells than the head, and a last line that does not end."""
    wanted, last = 0, 1
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in rows:
            wanted = wanted or len(row)
            if row and len(row) != wanted:
                raise InputError(
                    f"{path}: damaged table: line {rows.line_num}: expected {wanted} cells, got "
                    f"{len(row)}{' (the file was cut off)' if not text.endswith(_ENDS) else ''}"
                )
            last = rows.line_num
    except csv.Error as error:
        raise InputError(f"{path}: damaged table: line {last + 1}: {error}") from None
    if text and not text.endswith(_ENDS):
        raise InputError(
            f"{path}: damaged table: line {last}: expected a line end after the last row, got "
            "none (the file was cut off)"
        )


def _first_wrong_cell(text: str, schema: Table) -> str:
    """Line and column of the first cell that is not what its column holds; empty if unknown."""
    convert = {"int": int, "float": float}
    try:
        lines = csv.DictReader(io.StringIO(text, newline=""))
        for row in lines:
            for column in schema.columns:
                cell = row.get(column.name) or ""
                try:
                    convert.get(column.kind, str)(cell or "0")
                    wrong = column.kind == "float" and cell.strip().lower() == "nan"
                except ValueError:
                    wrong = True
                if wrong:
                    wanted = "a whole number" if column.kind == "int" else "a number or nothing"
                    return (
                        f"line {lines.line_num}, column '{column.name}': expected {wanted}, "
                        f"got '{cell[:40]}'"
                    )
    except (ValueError, csv.Error):
        pass
    return ""


def _missing(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or value != value


def _cell(value: Any) -> Any:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return repr(value)
    return value
