"""The hardware, the software, the sensors, the variants and the stages of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ttq_energy.reporting.formatting import quantity
from ttq_energy.reporting.tables.gather import Runs, gather, variant_order
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd

_UNITS = {"_bytes": "B", "_w": "W", "_hz": "Hz", "_s": "s", "_j": "J"}
_ACRONYMS = {
    "cpu": "CPU",
    "gpu": "GPU",
    "gpus": "GPUs",
    "os": "OS",
    "smt": "SMT",
    "numa": "NUMA",
    "isa": "instruction sets",
}


def machine(runs: Runs) -> pd.DataFrame:
    """Hardware and software: part, item, value (texts), in the environment's order."""
    return gather(runs, _machine)


def _machine(run: Run) -> pd.DataFrame:
    import pandas as pd

    environment = run.manifest.get("environment") or {}
    rows: list[tuple[str, str, str]] = []
    for key, value in environment.items():
        part = {"machine": "Hardware", "gpus": "Hardware", "gpu": "Hardware"}.get(key, "Software")
        if key == "packages" and isinstance(value, Mapping):
            rows.append((part, "packages", ", ".join(f"{k} {v}" for k, v in value.items() if v)))
        elif key == "machine" and isinstance(value, Mapping):
            rows += [(part, item, text) for item, text in _items(_readable(value))]
        elif key in ("gpus", "gpu"):
            rows += [(part, item, text) for item, text in _gpus(value)]
        else:
            rows += [(part, item, text) for item, text in _items({key: value})]
    if run.manifest.get("peak_memory_bytes"):
        peak = quantity(run.manifest["peak_memory_bytes"], "B", 3)
        rows.append(("Software", "peak memory of the run", peak))
    rows.sort(key=lambda row: row[0])
    return pd.DataFrame(rows, columns=["part", "item", "value"])


def _readable(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Caches as people write them: ``L1 data 32 KiB``."""
    caches = machine.get("caches")
    if not isinstance(caches, list) or not all(isinstance(c, Mapping) for c in caches):
        return dict(machine)
    told = []
    for cache in caches:
        kind = "" if cache.get("kind") == "unified" else cache.get("kind") or ""
        size = float(cache.get("bytes") or 0) / 1024
        amount = f"{size / 1024:g} MiB" if size >= 1024 else f"{size:g} KiB"
        told.append(" ".join(filter(None, (f"L{cache.get('level', '?')}", kind, amount))))
    return {**machine, "caches": told}


def _gpus(value: Any) -> Iterator[tuple[str, str]]:
    gpus = value if isinstance(value, list) else [value] if value else []
    if not gpus:
        yield "GPU", "none"
    for index, gpu in enumerate(gpus):
        prefix = "GPU" if len(gpus) == 1 else f"GPU {index}"
        if isinstance(gpu, Mapping):
            for item, text in _items(gpu):
                yield f"{prefix} {item}", text
        else:
            yield prefix, str(gpu)


def _items(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested entries as flat (item, text); empty ones are left out."""
    for key, value in mapping.items():
        if value is None or value == "" or value == [] or value == {}:
            continue
        name, unit = _split_unit(str(key))
        item = f"{prefix} {name}".strip()
        if isinstance(value, Mapping):
            yield from _items(value, item)
        elif isinstance(value, list):
            yield item, ", ".join(_text(x, unit) for x in value)
        else:
            yield item, _text(value, unit)


def _split_unit(key: str) -> tuple[str, str]:
    for ending, unit in _UNITS.items():
        if key.endswith(ending):
            return _words(key[: -len(ending)]), unit
    return _words(key), ""


def _words(key: str) -> str:
    return " ".join(_ACRONYMS.get(word, word) for word in key.split("_"))


def _text(value: Any, unit: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit and isinstance(value, (int, float)):
        return quantity(value, unit, 3)
    if isinstance(value, Mapping):
        return ", ".join(f"{item} {text}" for item, text in _items(value))
    return str(value)


def sensors(runs: Runs) -> pd.DataFrame:
    """Sensors that were looked for.

    Columns: name, found, readable, provenance, covers, update_period_s, resolution_j, reason,
    remedy.
    """
    return gather(runs, _sensors)


_SENSOR = ["name", "found", "readable", "provenance", "covers", "update_period_s", "resolution_j"]


def _sensors(run: Run) -> pd.DataFrame:
    import pandas as pd

    listed = [s for s in run.manifest.get("sensors") or [] if isinstance(s, Mapping)]
    columns = [*_SENSOR, "reason", "remedy"]
    rows = [[sensor.get(name) for name in columns] for sensor in listed]
    frame = pd.DataFrame(rows, columns=columns)
    texts = ["name", "provenance", "covers", "reason", "remedy"]
    frame[texts] = frame[texts].fillna("").astype(str)
    return frame


def variants(runs: Runs) -> pd.DataFrame:
    """Variants: variant, meaning, of (whose weights it runs), kernels (the code that ran)."""
    return gather(runs, _variants)


def _variants(run: Run) -> pd.DataFrame:
    import pandas as pd

    entries = run.manifest.get("variants") or {}
    measured = run.measurements
    rows = []
    for name in variant_order(run):
        entry = entries.get(name)
        entry = entry if isinstance(entry, Mapping) else {}
        kernels = entry.get("kernels")
        ran = list(kernels.values()) if isinstance(kernels, Mapping) else []
        ran += list(measured.loc[measured["variant"] == name, "kernel"].unique())
        unique = dict.fromkeys(str(kernel) for kernel in ran if kernel)
        meaning, of = entry.get("meaning") or "", entry.get("of") or name
        rows.append((name, str(meaning), str(of), "; ".join(unique)))
    return pd.DataFrame(rows, columns=["variant", "meaning", "of", "kernels"])


def stages(runs: Runs) -> pd.DataFrame:
    """Finished stages by kind and network: stage, network, parts (how many), wall_s (together)."""
    return gather(runs, _stages)


def _stages(run: Run) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for key, entry in (run.manifest.get("stages") or {}).items():
        kind, model, *_ = [*str(key).split("|"), ""]
        wall = entry.get("wall_s") if isinstance(entry, Mapping) else None
        rows.append({"stage": kind, "network": model, "parts": 1, "wall_s": wall})
    frame = pd.DataFrame(rows, columns=["stage", "network", "parts", "wall_s"])
    frame["wall_s"] = pd.to_numeric(frame["wall_s"])
    return frame.groupby(["stage", "network"], sort=False)[["parts", "wall_s"]].sum().reset_index()
