"""The tables of a Run: their columns, and their files read back strictly."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ttq_energy.errors import InputError, quoted

if TYPE_CHECKING:
    import pandas as pd

_ENDS = ("\n", "\r")
_FRACTIONS = {"accuracy", "accuracy_low", "accuracy_high", "zero_fraction", "weight_zero_fraction"}
_NOT_NEGATIVE = {"wall_s", "duration_s", "energy_j", "ratio", "latency_s", "weight_bytes"}
_TRUTHS = {"True", "TRUE", "true", "1", "1.0", "False", "FALSE", "false", "0", "0.0"}
_OUTSIDE_BLOCKS = -1


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


def read_text(path: Path) -> str:
    """The text of a table's file."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")


def read_table(path: Path, schema: Table) -> pd.DataFrame:
    """A table as a DataFrame; empty where there is no file yet.

    Raises:
        InputError: the file is cut off or no table of that schema; names line and column.
    """
    import pandas as pd

    kinds = {"text": "str", "int": "Int64", "float": "float64", "bool": "boolean"}
    types = {column.name: kinds[column.kind] for column in schema.columns}
    if not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})
    text = _checked_text(path)
    _check_head(path, text, schema)
    try:
        frame = pd.read_csv(
            io.StringIO(text, newline=""),
            dtype=types,
            keep_default_na=False,
            na_values={name: [""] for name, kind in types.items() if kind != "str"},
        )
        sound = _is_sound(frame, schema)
    except (ValueError, TypeError, OverflowError) as error:
        what = _first_wrong_cell(text, schema) or f"{error}".splitlines()[0]
        raise InputError(f"{path}: damaged table: {what}") from None
    if not sound:
        raise InputError(f"{path}: damaged table: {_first_wrong_cell(text, schema)}")
    for name, kind in types.items():
        if kind == "boolean" and not frame[name].isna().any():
            frame[name] = frame[name].astype(bool)
        if kind == "Int64" and not frame[name].isna().any():
            frame[name] = frame[name].astype("int64")
    return frame


def _check_head(path: Path, text: str, schema: Table) -> None:
    head = next(csv.reader(io.StringIO(text, newline="")), [])
    absent = [name for name in schema.names if name not in head]
    if len(absent) == len(schema.names):
        raise InputError(
            f"{path}: damaged table: expected CSV text that begins with its column names"
        )
    if absent:
        raise InputError(f"{path}: the column '{absent[0]}' is missing")
    twice = [name for name in schema.names if head.count(name) > 1]
    if twice:
        raise InputError(f"{path}: the column '{twice[0]}' stands twice")


def _bounds(column: Column) -> tuple[float, float]:
    """The least and the largest number that a column may hold."""
    name = column.name
    if column.kind == "int":
        return (_OUTSIDE_BLOCKS if name == "block" else 0), 2**63 - 1
    low = 0.0 if name in _NOT_NEGATIVE or name in _FRACTIONS else -math.inf
    high = 1.0 if name in _FRACTIONS else math.inf
    return low, high


def _is_sound(frame: pd.DataFrame, schema: Table) -> bool:
    """Whether every number is one that its column may hold: quick, and without saying where not."""
    for column in schema.columns:
        if column.kind in ("int", "float"):
            low, high = _bounds(column)
            values = frame[column.name]
            if ((values < low) | (values > high)).any():
                return False
    return True


def _wrong(cell: str, column: Column) -> str:
    """What was expected instead of a cell; empty where it is right."""
    if not cell or column.kind == "text":
        return ""
    if column.kind == "bool":
        return "" if cell in _TRUTHS else "True or False"
    wanted = "a whole number" if column.kind == "int" else "a number or nothing"
    try:
        value = int(cell) if column.kind == "int" else float(cell)
    except ValueError:
        return wanted
    if math.isnan(value):
        return wanted
    low, high = _bounds(column)
    if low <= value <= high:
        return ""
    return f"{wanted} of at least {low:g}" if value < low else f"{wanted} of at most {high:g}"


def _first_wrong_cell(text: str, schema: Table) -> str:
    """Line and column of the first cell that is not what its column holds; empty if unknown."""
    lines = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in lines:
            for column in schema.columns:
                cell = row.get(column.name) or ""
                wanted = _wrong(cell, column)
                if wanted:
                    return (
                        f"line {lines.line_num}, column '{column.name}': expected {wanted}, "
                        f"got {quoted(cell[:40]) if cell else 'nothing'}"
                    )
    except csv.Error:
        pass
    return ""


def _checked_text(path: Path) -> str:
    """A table's text, whole.

    Raises:
        InputError: it is no file, no text, or its last row was cut off, as by a full disk.
    """
    kind = "gzip-compressed CSV text" if path.suffix == ".gz" else "CSV text"
    expected = f"expected {kind} in UTF-8, as a run writes it"
    try:
        text = read_text(path)
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
