"""What was counted and estimated: layers, targets, measured beside modelled, carbon."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from ttq_energy.reporting.carbon import country_factor
from ttq_energy.reporting.tables.gather import Runs, baseline_of, gather, in_order, once
from ttq_energy.reporting.tables.measured import _energy, of_main_domain
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd

_RANGE = ["energy_j", "energy_low_j", "energy_high_j"]
_OWN_CIRCUITS = ("arithmetic", "decode", "multiply", "mac")
"""Components whose coefficients differ between variants, so that their errors are not shared."""


def layers(runs: Runs) -> pd.DataFrame:
    """Counts of every layer and variant, in the network's order; see ``run.TABLES["layers"]``."""
    return gather(runs, lambda run: in_order(run.layers, run, ["model", "variant"]))


def layer_totals(runs: Runs) -> pd.DataFrame:
    """Counts of whole networks, one inference.

    Columns: model, variant, macs, multiplies, adds, weight_bytes, activation_bytes (read and
    written by the layers), weight_zero_fraction (of the weights of layers that have zeros to
    skip, weighted by elements), unsupported_layers.
    """
    return gather(runs, _layer_totals)


def _layer_totals(run: Run) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for (model, variant), group in run.layers.groupby(["model", "variant"], sort=False):
        known = group[group["supported"].fillna(False).astype(bool)]
        weights = known[known["weight_zero_fraction"].notna() & (known["weight_elements"] > 0)]
        elements = weights["weight_elements"].to_numpy(float)
        zeros = (elements * weights["weight_zero_fraction"].to_numpy(float)).sum()
        moved = (known["input_elements"] + known["output_elements"]) * known["activation_bits"] / 8
        rows.append(
            {
                "model": model,
                "variant": variant,
                **{name: int(known[name].sum()) for name in ("macs", "multiplies", "adds")},
                "weight_bytes": float(known["weight_bytes"].sum()),
                "activation_bytes": float(moved.sum()),
                "weight_zero_fraction": zeros / elements.sum() if elements.sum() else math.nan,
                "unsupported_layers": len(group) - len(known),
            }
        )
    columns = ["model", "variant", "macs", "multiplies", "adds", "weight_bytes"]
    columns += ["activation_bytes", "weight_zero_fraction", "unsupported_layers"]
    return in_order(pd.DataFrame(rows, columns=columns), run, ["model", "variant"])


def estimate_components(runs: Runs) -> pd.DataFrame:
    """Modelled energy of one inference by component: model, target, variant, component, energies.

    Ranges of layers add up, because a coefficient is the same in every layer.
    """
    return gather(runs, _components)


@once
def _components(run: Run) -> pd.DataFrame:
    keys = ["model", "target", "variant", "component"]
    table = run.estimates.groupby(keys, sort=False)[_RANGE].sum(min_count=1).reset_index()
    return in_order(table, run, ["model", "target", "variant"])


def estimate_totals(runs: Runs) -> pd.DataFrame:
    """Modelled energy and latency of one inference on every target.

    Columns: model, target, variant, energy_j, energy_low_j, energy_high_j, latency_s, ratio,
    ratio_low, ratio_high (variant / baseline in energy), latency_ratio, verdict, reason.

    The ratio's range takes every coefficient to the ends of its own 95 % range: coefficients of
    storage, which are one and the same hardware for both variants (told by the same relative
    range), move together; those of arithmetic and decoding move apart. Where run.json holds
    ``estimate_ratios`` (a list of model, target, variant, ratio, ratio_low, ratio_high, verdict),
    the energy model's own ranges take their place. ``reason`` says which components make the
    difference.
    """
    return gather(runs, _estimate_totals)


@once
def _estimate_totals(run: Run) -> pd.DataFrame:
    import pandas as pd

    parts = _components(run)
    times = (
        run.estimates.drop_duplicates(["model", "variant", "target", "layer"])
        .groupby(["model", "target", "variant"], sort=False)["latency_s"]
        .sum(min_count=1)
    )
    first = baseline_of(run)
    rows = []
    for (model, target), group in parts.groupby(["model", "target"], sort=False):
        by_variant = {
            str(v): part.set_index("component")[_RANGE]
            for v, part in group.groupby("variant", sort=False)
        }
        base = by_variant.get(first)
        for variant, part in by_variant.items():
            total = {name: float(part[name].sum()) for name in _RANGE}
            latency = float(times.get((model, target, variant), math.nan))
            row: dict[str, Any] = {"model": model, "target": target, "variant": variant, **total}
            row["latency_s"] = latency
            if base is not None and variant != first and base["energy_j"].sum() > 0:
                low, high = ratio_range(part, base)
                row["ratio"] = total["energy_j"] / float(base["energy_j"].sum())
                row["ratio_low"], row["ratio_high"] = low, high
                row["latency_ratio"] = latency / float(times.get((model, target, first), math.nan))
                row["verdict"] = "saves" if high < 1 else "costs" if low > 1 else "undecided"
                row["reason"] = reason(part["energy_j"], base["energy_j"])
            rows.append(row)
    columns = ["model", "target", "variant", *_RANGE, "latency_s", "ratio", "ratio_low"]
    columns += ["ratio_high", "latency_ratio", "verdict", "reason"]
    _take_recorded(rows, run)
    table = pd.DataFrame(rows, columns=columns).fillna({"verdict": "", "reason": ""})
    return in_order(table, run, ["model", "target", "variant"])


def _take_recorded(rows: list[dict[str, Any]], run: Run) -> None:
    """Put the ratios that the energy model recorded in place of those made from components."""
    recorded = {
        tuple(str(entry.get(key)) for key in ("model", "target", "variant")): entry
        for entry in run.manifest.get("estimate_ratios") or []
        if isinstance(entry, dict) and entry.get("baseline", baseline_of(run)) == baseline_of(run)
    }
    names = ("ratio", "ratio_low", "ratio_high", "latency_ratio", "verdict")
    for row in rows:
        entry = recorded.get((str(row["model"]), str(row["target"]), str(row["variant"])), {})
        row.update({name: entry[name] for name in names if entry.get(name) is not None})


def ratio_range(variant: pd.DataFrame, base: pd.DataFrame) -> tuple[float, float]:
    """Least and greatest variant / base when every coefficient goes to an end of its range.

    Both frames have one row a component and the columns energy_j, energy_low_j, energy_high_j.
    The extremes of a quotient of linear functions lie at the corners of the box.
    """
    shared, alone_v, alone_b = [], [0.0, 0.0], [0.0, 0.0]
    of_variant, of_base = _triples(variant), _triples(base)
    for name in dict.fromkeys([*of_variant, *of_base]):
        v = of_variant.get(name, (0.0, 0.0, 0.0))
        b = of_base.get(name, (0.0, 0.0, 0.0))
        if name not in _OWN_CIRCUITS and _same_spread(v, b):
            shared.append(((v[1], b[1]), (v[2], b[2])))
            continue
        alone_v[0], alone_v[1] = alone_v[0] + v[1], alone_v[1] + v[2]
        alone_b[0], alone_b[1] = alone_b[0] + b[1], alone_b[1] + b[2]
    lows, highs = [], []
    for corner in itertools.product((0, 1), repeat=len(shared)):
        v_sum = sum(pair[end][0] for pair, end in zip(shared, corner, strict=True))
        b_sum = sum(pair[end][1] for pair, end in zip(shared, corner, strict=True))
        lows.append(_divide(v_sum + alone_v[0], b_sum + alone_b[1]))
        highs.append(_divide(v_sum + alone_v[1], b_sum + alone_b[0]))
    return min(lows), max(highs)


def _triples(frame: pd.DataFrame) -> dict[Any, tuple[float, float, float]]:
    """Each component's energy and its range; where there is none, the value for both ends."""
    return {
        name: (value, low if low == low else value, high if high == high else value)
        for name, (value, low, high) in zip(
            frame.index, frame[_RANGE].to_numpy(float).tolist(), strict=True
        )
    }


def _same_spread(v: tuple[float, ...], b: tuple[float, ...]) -> bool:
    if v[0] == 0 or b[0] == 0:
        return True
    return all(
        math.isclose(v[end] / v[0], b[end] / b[0], rel_tol=1e-3, abs_tol=1e-9) for end in (1, 2)
    )


def _divide(a: float, b: float) -> float:
    return a / b if b > 0 else math.inf


def reason(variant: pd.Series, base: pd.Series) -> str:
    """Which components make the difference, in percent of the baseline's energy."""
    total = float(base.sum())
    change = (variant.reindex(variant.index.union(base.index, sort=False)).fillna(0.0)).sub(
        base, fill_value=0.0
    ) / total
    named = sorted(change.items(), key=lambda item: -abs(float(item[1])))
    told = [
        f"{component} {'+' if part > 0 else '−'}{abs(part) * 100:.0f} %"
        for component, part in named
        if abs(part) >= 0.005
    ]
    return ", ".join(told[:4]) if told else "no component changes by half a percent"


def measured_and_modelled(runs: Runs) -> pd.DataFrame:
    """Each variant's energy ratio as measured here and as modelled on every target.

    Columns: model, variant, where (device or target), batch_size (0 for targets), domain, ratio,
    ratio_low, ratio_high, provenance. The rows stand side by side and are never combined: they
    are of different hardware.
    """
    return gather(runs, _measured_and_modelled)


def _measured_and_modelled(run: Run) -> pd.DataFrame:
    import pandas as pd

    measured = of_main_domain(run.comparisons, run)
    measured = measured[
        measured["ratio"].notna()
        & (measured["quantity"] == "gross_energy")
        & (measured["baseline"] == baseline_of(run))
    ].rename(columns={"device": "where"})
    modelled = _estimate_totals(run).rename(columns={"target": "where"})
    modelled = modelled[modelled["ratio"].notna()]
    modelled = modelled.assign(batch_size=0, domain="", provenance="modelled")
    columns = ["model", "variant", "where", "batch_size", "domain"]
    columns += ["ratio", "ratio_low", "ratio_high", "provenance"]
    filled = [frame[columns] for frame in (measured, modelled) if len(frame)]
    table = pd.concat(filled) if filled else measured[columns]
    return in_order(table, run, ["model", "variant"])


def carbon(runs: Runs, country: str) -> pd.DataFrame:
    """Carbon of a million inferences by CodeCarbon's factor for a country.

    Columns: model, where, batch_size, domain, variant, provenance, energy_j (per inference),
    carbon_g, carbon_low_g, carbon_high_g (CO2 equivalents of 1e6 inferences). The range is the
    energy's; the factor's own uncertainty is not known.

    Raises:
        InputError: CodeCarbon has no factor for that ISO 3166 code.
    """
    factor = country_factor(country)
    return gather(runs, lambda run: _carbon(run, factor.g_per_j))


def _carbon(run: Run, g_per_j: float) -> pd.DataFrame:
    import pandas as pd

    measured = of_main_domain(_energy(run), run).rename(columns={"device": "where"})
    targets = _estimate_totals(run).rename(columns={"target": "where"})
    targets = targets.assign(batch_size=0, domain="", provenance="modelled")
    place = ["model", "where", "batch_size", "domain", "variant", "provenance"]
    frames = [f[[*place, *_RANGE]] for f in (measured, targets) if len(f)]
    table = pd.concat(frames, ignore_index=True) if frames else measured[[*place, *_RANGE]]
    for end in ("", "low_", "high_"):
        table[f"carbon_{end}g"] = table[f"energy_{end}j"] * g_per_j * 1e6
    return table[table["energy_j"].notna()].drop(columns=_RANGE[1:]).reset_index(drop=True)


def target_figures(runs: Runs) -> pd.DataFrame:
    """Every figure of every target as the run took it, and how it is known; empty for older runs.

    Columns: target, figure, value, low, high (in the unit that the figure's name bears), evidence
    and source (texts).
    """
    return gather(runs, _target_figures)


def _target_figures(run: Run) -> pd.DataFrame:
    import pandas as pd

    names = ("value", "low", "high", "evidence", "source")
    targets = run.manifest.get("targets")
    rows = [
        (str(target), str(key), *(figure.get(name) for name in names))
        for target, facts in (targets.items() if isinstance(targets, dict) else ())
        for key, figure in _mapping(facts, "figures").items()
        if isinstance(figure, dict)
    ]
    return pd.DataFrame(rows, columns=["target", "figure", *names])


def _mapping(facts: object, key: str) -> dict[str, object]:
    found = facts.get(key) if isinstance(facts, dict) else None
    return found if isinstance(found, dict) else {}
