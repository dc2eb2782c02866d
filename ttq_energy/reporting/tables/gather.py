"""Reading one table of one or several runs, and the order that variants stand in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ttq_energy.errors import InputError
from ttq_energy.run import MANIFEST, Run

if TYPE_CHECKING:
    import pandas as pd

Runs = Run | Sequence[Run]
T = TypeVar("T")

BASELINE = "fp32"
TERNARY_TYPES = ("TTQ", "TWN")


_NAMES: dict[type, str] = {dict: "a mapping of keys", list: "a list", str: "text"}
_KINDS: dict[str, type] = {
    **dict.fromkeys(("study", "environment", "stages", "models", "variants", "targets"), dict),
    **dict.fromkeys(("sensors", "meters", "messages", "estimate_ratios"), list),
    **dict.fromkeys(("created", "status"), str),
}
"""What a report reads of run.json, and of what kind it must be."""


class Snapshot(Run):
    """A Run as it was when a report was begun: every table is read once, derived ones made once."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.folder, run.manifest)
        for key, kind in _KINDS.items():
            value = run.manifest.get(key)
            if value is not None and not isinstance(value, kind):
                raise InputError(
                    f"{run.folder / MANIFEST}: {key}: expected {_NAMES[kind]}, "
                    f"got {type(value).__name__}"
                )
        self.tables = _ReadOnce(run)  # type: ignore[assignment]
        self.derived: dict[str, Any] = {}


class _ReadOnce(Mapping[str, "pd.DataFrame"]):
    def __init__(self, run: Run) -> None:
        self._run = run
        self._read: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._read:
            self._read[name] = self._run.tables[name]
        return self._read[name].copy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._run.tables)

    def __len__(self) -> int:
        return len(self._run.tables)


def once(make: Callable[[Run], pd.DataFrame]) -> Callable[[Run], pd.DataFrame]:
    """Makes a table anew at each call for a Run, and only once for a :class:`Snapshot`."""

    @functools.wraps(make)
    def made(run: Run) -> pd.DataFrame:
        if not isinstance(run, Snapshot):
            return make(run)
        if make.__qualname__ not in run.derived:
            run.derived[make.__qualname__] = make(run)
        frame: pd.DataFrame = run.derived[make.__qualname__]
        return frame.copy()

    return made


def remembered(run: Run, name: str, make: Callable[[], T]) -> T:
    """What ``make`` gives, made once for a :class:`Snapshot`; not to be changed by its users."""
    if not isinstance(run, Snapshot):
        return make()
    if name not in run.derived:
        run.derived[name] = make()
    found: T = run.derived[name]
    return found


def as_list(runs: Runs) -> list[Run]:
    return [runs] if isinstance(runs, Run) else list(runs)


def run_names(runs: Sequence[Run]) -> list[str]:
    """What to call each run: its folder's name, with its parents' where two are the same."""
    paths = [run.folder.resolve() for run in runs]
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)) or depth > 20:
            return names
        depth += 1


def gather(runs: Runs, read: Callable[[Run], pd.DataFrame]) -> pd.DataFrame:
    """One table of every run, a first column ``run`` where there are several."""
    import pandas as pd

    listed = as_list(runs)
    if isinstance(runs, Run) or len(listed) == 1:
        return read(listed[0])
    frames = []
    for name, run in zip(run_names(listed), listed, strict=True):
        frame = read(run)
        frame.insert(0, "run", name)
        frames.append(frame)
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frames[0]


def baseline_of(run: Run) -> str:
    """What the run divides by: ``fp32``, or what its comparisons name, or its first variant."""
    return remembered(run, "baseline", lambda: _baseline(run))


def _baseline(run: Run) -> str:
    names = _variant_names(run)
    compared = [str(name) for name in run.comparisons["baseline"].unique()]
    if BASELINE in names or not (compared or names):
        return BASELINE
    return (compared or names)[0]


def variant_order(run: Run) -> list[str]:
    """The variants in the study's order, the baseline first; strangers last, in theirs."""
    first = baseline_of(run)
    return sorted(_variant_names(run), key=lambda name: name != first)


def _variant_names(run: Run) -> list[str]:
    return remembered(run, "variant names", lambda: _find_variant_names(run))


def _find_variant_names(run: Run) -> list[str]:
    names = list(run.manifest.get("variants") or {})
    for table in ("measurements", "training", "estimates", "layers"):
        names += [str(v) for v in run.tables[table]["variant"].unique()]
    return list(dict.fromkeys(names))


def in_order(frame: pd.DataFrame, run: Run, keys: Sequence[str]) -> pd.DataFrame:
    """Sorted by ``keys``; variants, models and targets keep the order that the run gives them."""
    frame = frame.reset_index(drop=True)
    orders = {"variant": variant_order(run), "model": list(run.manifest.get("models") or {})}

    def rank(column: pd.Series) -> pd.Series:
        if column.dtype.kind in "iufb":
            return column
        order = {name: place for place, name in enumerate(orders.get(str(column.name), []))}
        for name in column:
            order.setdefault(name, len(order))
        return column.map(order)

    return frame.sort_values(list(keys), key=rank, kind="stable", ignore_index=True)


def is_ternary(run: Run, variant: str) -> bool:
    """Whether a variant's weights are ternary, by its quantizer or, unknown, by name and kernel."""
    entry = (run.manifest.get("variants") or {}).get(variant)
    if isinstance(entry, dict) and "quantizer" in entry:
        quantizer = entry["quantizer"]
        kind = quantizer.get("type") if isinstance(quantizer, dict) else quantizer
        return str(kind) in TERNARY_TYPES
    kernels = entry.get("kernels") if isinstance(entry, dict) else None
    ran = " ".join(map(str, kernels.values())) if isinstance(kernels, dict) else ""
    return variant.startswith(("ttq", "twn")) or "ttq-energy" in ran


def source_of(run: Run, variant: str) -> str:
    """The variant whose weights, and so whose accuracy in training.csv, a variant has."""
    entry = (run.manifest.get("variants") or {}).get(variant)
    if isinstance(entry, dict) and entry.get("of"):
        return str(entry["of"])
    return {"int8": BASELINE, "bf16": BASELINE, "ttq-int8": "ttq"}.get(variant, variant)
