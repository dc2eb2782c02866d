"""The ``--sweep`` of ``ttq-energy estimate``: reading its ranges, writing its table or plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_energy.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MOST_POINTS = 1_000_000


def parse_sweeps(items: list[str]) -> dict[str, list[Any]]:
    """``KEY=A:B:STEP`` (both ends kept) or ``KEY=V,V,...`` as values by key.

    Raises:
        InputError: another form, a step that does not lead from A to B, or a key given twice.
    """
    sweeps: dict[str, list[Any]] = {}
    for item in items:
        key, equals, text = item.partition("=")
        where = f"--sweep {item}"
        if not equals or not key or not text:
            raise InputError(f"{where}: expected KEY=A:B:STEP or KEY=V,V,...")
        if key in sweeps:
            raise InputError(f"{where}: '{key}' is swept twice")
        sweeps[key] = _range(text, where) if ":" in text else _list(text)
    points = 1
    for values in sweeps.values():
        points *= len(values)
    if points > MOST_POINTS:
        raise InputError(f"--sweep: {points} points; at most {MOST_POINTS}")
    return sweeps


def _range(text: str, where: str) -> list[Any]:
    parts = text.split(":")
    try:
        low, high, step = (float(part) for part in parts)
    except ValueError:
        raise InputError(f"{where}: expected A:B:STEP, three numbers") from None
    if step <= 0 or high < low or not (high - low) / step < MOST_POINTS:
        raise InputError(f"{where}: expected A <= B and a step above 0")
    count = int((high - low) / step + 1e-9) + 1
    return [round(low + index * step, 12) for index in range(count)]


def _list(text: str) -> list[Any]:
    values: list[Any] = []
    for part in text.split(","):
        try:
            values.append(float(part))
        except ValueError:
            values.append(part)
    return values


def write_table_or_plot(table: pd.DataFrame, keys: list[str], path: Path) -> None:
    """CSV, or a plot of the ratio over the first key with one line for each of the others.

    Raises:
        InputError: another ending, or a folder that cannot be written.
    """
    from ttq_energy.files import atomic_writer

    if path.suffix == ".csv":
        with atomic_writer(path) as stream:
            table.assign(provenance="modelled").to_csv(stream, index=False)
        return
    if path.suffix not in (".svg", ".pdf"):
        raise InputError(f"--out {path}: expected a name that ends in .csv, .svg or .pdf")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    others = [k for k in ("target", *keys[1:]) if len(set(table[k])) > 1]
    groups = table.groupby(others, sort=False) if others else [((), table)]
    for values, rows in groups:
        shown = values if isinstance(values, tuple) else (values,)
        label = ", ".join(f"{k} {_plain(v)}" for k, v in zip(others, shown, strict=True))
        axes.plot(rows[keys[0]], rows["ratio"], marker=".", label=label or None)
        axes.fill_between(
            rows[keys[0]], rows["ratio_low"], rows["ratio_high"], alpha=0.15, linewidth=0
        )
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    axes.set_xlabel(keys[0])
    axes.set_ylabel("modelled energy, variant / baseline; band: 95 %")
    if others:
        axes.legend(fontsize="small")
    with atomic_writer(path, "wb") as stream:
        figure.savefig(stream, format=path.suffix[1:])
    plt.close(figure)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
