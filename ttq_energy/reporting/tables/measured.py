"""What was measured: energy and latency per inference, comparisons, blocks left out, traces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ttq_energy.reporting.tables.gather import Runs, gather, in_order, once, remembered
from ttq_energy.run import Run

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_PLACE = ["model", "device", "batch_size"]
_SENSOR = "sensor: "
"""Head of a reason that spoils a domain's energy, but not the latency of its block."""
_BLOCK = [*_PLACE, "variant", "block"]


def mean_interval(values: NDArray[np.float64], own_half_width: float = 0.0) -> tuple[float, ...]:
    """Mean of blocks with its 95 % interval.

    Student's t interval of the blocks' mean and the mean half-width of the blocks' own intervals
    are added as squares: the sensor's share is systematic and does not shrink with more blocks.
    """
    import numpy as np
    from scipy import special

    mean, count = float(np.mean(values)), len(values)
    spread = (
        float(special.stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(count))
        if count > 1
        else 0.0
    )
    own = own_half_width if math.isfinite(own_half_width) else 0.0
    half = math.hypot(spread, own)
    return (mean, mean - half, mean + half) if half > 0 else (mean, math.nan, math.nan)


def energy(runs: Runs) -> pd.DataFrame:
    """Energy of one inference, gross and net, by model, batch size, domain and variant.

    Columns: model, device, batch_size, domain, variant, provenance, energy_j, energy_low_j,
    energy_high_j, net_energy_j, net_energy_low_j, net_energy_high_j, blocks, blocks_left_out,
    kernel, meter. Domains and provenances are never added together.
    """
    return gather(runs, _energy)


@once
def _energy(run: Run) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    frame = run.measurements
    frame = frame[frame["energy_j"].notna() & (frame["inferences"] > 0)].reset_index(drop=True)
    numbers = {name: frame[name].to_numpy(float) for name in _BLOCK_NUMBERS}
    # A figure that is not finite cannot be one of a valid block, whatever the file says.
    valid = frame["valid"].fillna(False).to_numpy(bool) & np.isfinite(numbers["energy_j"])
    kernels, meters = frame["kernel"].to_numpy(object), frame["meter"].to_numpy(object)
    keys = [*_PLACE, "domain", "variant", "provenance"]
    rows = []
    groups: Any = frame.groupby(keys, sort=False).indices
    for key, places in groups.items():
        good = places[valid[places]]
        row = dict(
            zip(keys, key, strict=True),
            **_energy_of({name: column[good] for name, column in numbers.items()}),
            blocks=len(good),
            blocks_left_out=len(places) - len(good),
            kernel=_first(kernels[places]),
            meter=_first(meters[places]),
        )
        rows.append(row)
    columns = [*_PLACE, "domain", "variant", "provenance", *_ENERGY, "blocks", "blocks_left_out"]
    table = pd.DataFrame(rows, columns=[*columns, "kernel", "meter"])
    return in_order(table, run, ["model", "device", "batch_size", "domain", "variant"])


_BLOCK_NUMBERS = ["inferences", "duration_s", "energy_j", "energy_low_j", "energy_high_j"]
_BLOCK_NUMBERS += ["net_energy_j", "idle_power_low_w", "idle_power_high_w"]
_ENERGY = [f"{kind}energy_{end}" for kind in ("", "net_") for end in ("j", "low_j", "high_j")]


def _energy_of(good: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Of the valid blocks' columns."""
    each = good["inferences"]
    if not len(each):
        return dict.fromkeys(_ENERGY, math.nan)
    own = _mean_known((good["energy_high_j"] - good["energy_low_j"]) / 2 / each)
    gross = mean_interval(good["energy_j"] / each, own)
    net_blocks = good["net_energy_j"] / each
    net = (
        mean_interval(net_blocks, math.hypot(own, _idle_half_width(good)))
        if all(math.isfinite(x) for x in net_blocks)
        else (math.nan,) * 3
    )
    return dict(zip(_ENERGY, (*gross, *net), strict=True))


def _idle_half_width(good: Mapping[str, NDArray[np.float64]]) -> float:
    """Half the width that the idle power's interval leaves to the net energy of one inference."""
    width = (good["idle_power_high_w"] - good["idle_power_low_w"]) / 2
    return _mean_known(width * good["duration_s"] / good["inferences"])


def _mean_known(values: NDArray[np.float64]) -> float:
    """Mean of the finite values; 0 where there are none."""
    known = [x for x in values.tolist() if math.isfinite(x)]
    return sum(known) / len(known) if known else 0.0


def latency(runs: Runs) -> pd.DataFrame:
    """Time of one inference by model, batch size and variant; always timed, never modelled.

    Columns: model, device, batch_size, variant, latency_s, latency_low_s, latency_high_s, blocks,
    kernel. A block that only its energy sensor spoiled still counts here.
    """
    return gather(runs, _latency)


@once
def _latency(run: Run) -> pd.DataFrame:
    import pandas as pd

    frame = run.measurements
    undisturbed = frame["valid"].fillna(False).astype(bool) | frame[
        "invalid_reason"
    ].str.startswith(_SENSOR)
    frame = frame[undisturbed & (frame["inferences"] > 0)]
    rows = []
    blocks = frame.drop_duplicates(_BLOCK)
    for key, group in blocks.groupby([*_PLACE, "variant"], sort=False):
        each = group["duration_s"].to_numpy(float) / group["inferences"].to_numpy(float)
        mean, low, high = mean_interval(each)
        rows.append((*key, mean, low, high, len(group), _first(group["kernel"])))
    columns = ["latency_s", "latency_low_s", "latency_high_s", "blocks", "kernel"]
    table = pd.DataFrame(rows, columns=[*_PLACE, "variant", *columns])
    return in_order(table, run, ["model", "device", "batch_size", "variant"])


def comparisons(runs: Runs) -> pd.DataFrame:
    """The run's paired comparisons, in the study's order; see ``run.TABLES["comparisons"]``."""
    keys = ["model", "device", "batch_size", "domain", "quantity", "baseline", "variant"]
    return gather(runs, lambda run: in_order(run.comparisons, run, keys))


def main_domains(run: Run) -> dict[tuple[Any, ...], str]:
    """The domain that stands for each (model, device, batch_size, provenance).

    It is the whole where the run has one ("total", "machine", "system"), else the domain that
    took the most energy.
    """
    return remembered(run, "main domains", lambda: _main_domains(run))


def _main_domains(run: Run) -> dict[tuple[Any, ...], str]:
    table = _energy(run)
    chosen: dict[tuple[Any, ...], str] = {}
    for key, group in table.groupby([*_PLACE, "provenance"], sort=False):
        names = list(group["domain"].unique())
        whole = [name for name in names if name in ("total", "machine", "system")]
        largest = group.groupby("domain", sort=False)["energy_j"].max().fillna(0.0)
        chosen[key] = whole[0] if whole else str(largest.idxmax())
    return chosen


def of_main_domain(frame: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The rows of a table with model, device, batch_size, provenance, domain that stand for all."""
    import numpy as np

    chosen = main_domains(run)
    columns = [frame[name] for name in (*_PLACE, "provenance")]
    keep = [
        chosen.get(key) == domain
        for key, domain in zip(zip(*columns, strict=True), frame["domain"], strict=True)
    ]
    return frame[np.array(keep, dtype=bool)].reset_index(drop=True)


def blocks_left_out(runs: Runs) -> pd.DataFrame:
    """How many blocks were refused and why: model, device, batch_size, domain, reason, blocks, of.

    Reasons that differ only in their figures are one: the first stands for them. ``of`` is how
    many blocks were measured there.
    """
    return gather(runs, _blocks_left_out)


def _blocks_left_out(run: Run) -> pd.DataFrame:
    frame = run.measurements
    bad = frame[~frame["valid"].fillna(False).astype(bool)].copy()
    bad["reason"] = bad["invalid_reason"].replace("", "no reason given")
    bad["kind"] = bad["reason"].str.replace(r"\d+(\.\d+)?", "#", regex=True)
    where = [*_PLACE, "domain"]
    groups = bad.groupby([*where, "kind"], sort=False)["reason"]
    counted = groups.agg(reason=_example, blocks="size").reset_index()
    counted = counted.drop(columns="kind")
    of = frame.groupby(where, sort=False).size().rename("of").reset_index()
    return in_order(counted.merge(of, on=where), run, [*where, "reason"])


def _example(reasons: pd.Series) -> str:
    first = str(reasons.iloc[0])
    return first if (reasons == first).all() else f"such as: {first}"


def traces(runs: Runs) -> pd.DataFrame:
    """Power over time with each block's validity: the traces' columns, ``valid`` and the reason."""
    return gather(runs, _traces)


@once
def _traces(run: Run) -> pd.DataFrame:
    frame = run.traces
    where = [*_PLACE, "domain", "block"]
    verdicts = run.measurements[[*where, "valid", "invalid_reason"]].drop_duplicates(where)
    joined = frame.merge(verdicts, on=where, how="left")
    joined["valid"] = joined["valid"].astype("boolean")
    joined["invalid_reason"] = joined["invalid_reason"].fillna("")
    return joined.reset_index(drop=True)


def _first(column: Iterable[object]) -> str:
    return "; ".join(dict.fromkeys(str(x) for x in column if x == x and str(x)))
