"""The answer in one sentence, and what must be known before it is believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttq_energy.reporting import tables
from ttq_energy.reporting.formatting import interval, listed, percent
from ttq_energy.reporting.frames import each_row
from ttq_energy.reporting.tables.gather import baseline_of, is_ternary
from ttq_energy.reporting.tables.measured import of_main_domain
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd

MEASURED = ("counter", "integrated")
PROVENANCE = {
    "counter": "counter (read from a hardware energy counter)",
    "integrated": "integrated (sampled power of a sensor, integrated over time)",
    "modelled": "modelled (computed from load or operation counts, not measured)",
    "timed": "timed (measured with a monotonic clock)",
}
_CODECARBON = "codecarbon"
_TIME_VERDICT = {
    "saves": "it is **faster**",
    "costs": "it is **slower**",
    "undecided": "whether it is faster is **undecided**",
}
_ENERGY_VERDICT = {
    "saves": "it **saves** energy",
    "costs": "it **costs** energy",
    "undecided": "whether it saves energy is **undecided**",
}


@dataclass(frozen=True)
class Headline:
    """The comparison that answers for a run.

    Attributes:
        kind: "energy" (measured), "latency" (no measured energy), "estimate", "accuracy" or
            "nothing".
        row: of the comparisons or estimate totals that was chosen; empty for the last two.
    """

    kind: str
    row: Mapping[str, Any]


def headline(run: Run, model: str | None = None) -> Headline:
    """The one comparison to begin with, chosen by rule and not by its outcome.

    Measured energy comes before latency, latency before estimates. Among the rows it is the
    study's first model (or ``model``), the smallest batch size, ``ttq`` (else the first ternary
    variant, else the first variant), gross energy of the main domain.
    """
    against = _of(model, tables.comparisons(run))
    against = against[against["baseline"] == baseline_of(run)]
    against = against[against["ratio"].notna()]
    energy = of_main_domain(against[against["quantity"] == "gross_energy"], run)
    for provenance in MEASURED:
        row = _first(run, energy[energy["provenance"] == provenance])
        if row is not None:
            return Headline("energy", row)
    row = _first(run, against[against["quantity"] == "latency"])
    if row is not None:
        return Headline("latency", row)
    row = _first(run, _of(model, compared_estimates(run)))
    if row is not None:
        return Headline("estimate", row)
    return Headline("accuracy" if len(_of(model, tables.accuracy(run))) else "nothing", {})


def _of(model: str | None, frame: pd.DataFrame) -> pd.DataFrame:
    return frame if model is None else frame[frame["model"] == model]


def compared_estimates(run: Run) -> pd.DataFrame:
    """Estimate totals that have a ratio to the baseline."""
    totals = tables.estimate_totals(run)
    return totals[totals["ratio"].notna()]


def _first(run: Run, frame: pd.DataFrame) -> Mapping[str, Any] | None:
    if frame.empty:
        return None
    frame = frame[frame["model"] == frame["model"].iloc[0]]
    if "batch_size" in frame:
        frame = frame[frame["batch_size"] == frame["batch_size"].min()]
    variant = headline_variant(run, list(frame["variant"]))
    return {str(k): v for k, v in frame[frame["variant"] == variant].iloc[0].items()}


def headline_variant(run: Run, variants: list[str]) -> str:
    """``ttq``, else the first ternary variant, else the first that is not the baseline."""
    ternary = [v for v in variants if is_ternary(run, v)]
    others = [v for v in variants if v != baseline_of(run)]
    return "ttq" if "ttq" in variants else (ternary or others or variants)[0]


def answer(run: Run, chosen: Headline | None = None) -> str:
    """The answer in one sentence."""
    chosen = chosen or headline(run)
    if simulated(run):
        return f"**In a simulation**: {_answer(run, chosen)}"
    return _answer(run, chosen)


def simulated(run: Run) -> str:
    """What was simulated in place of sensors (run.json's ``simulated``); empty for a real run."""
    return str(run.manifest.get("simulated") or "")


def _answer(run: Run, chosen: Headline) -> str:
    row, base = chosen.row, baseline_of(run)
    if chosen.kind == "nothing":
        return "Nothing has been measured, trained or estimated yet."
    if chosen.kind == "accuracy":
        return _accuracy_answer(run)
    ratio = f"**{interval(row['ratio'], row['ratio_low'], row['ratio_high'])}**"
    right = _at_accuracy(run, row["model"], row["variant"])
    if chosen.kind == "estimate":
        return (
            f"On the target `{row['target']}`, {row['model']} as `{row['variant']}` is modelled "
            f"to take {ratio} times the energy of `{base}` per inference{right}; "
            f"{_what_was_measured(run)}."
        )
    where = (
        f"{row['model']} as `{row['variant']}`, at batch size {row['batch_size']} on "
        f"{device(run, row['device'])},"
    )
    if chosen.kind == "energy":
        return (
            f"{where} takes {ratio} times the energy of `{base}` per inference "
            f"({row['provenance']}, {row['domain']}, gross): "
            f"{_ENERGY_VERDICT[str(row['verdict'])]}{right}."
        )
    return (
        f"{where} takes {ratio} times the time of `{base}` per inference (timed): "
        f"{_TIME_VERDICT[str(row['verdict'])]}{right}; what it saves in joules was not measured."
    )


def _what_was_measured(run: Run) -> str:
    blocks = len(run.measurements.drop_duplicates(["model", "device", "batch_size", "block"]))
    if not blocks:
        return "nothing was measured"
    return f"the {blocks} blocks measured here gave no comparison (see What was left out)"


def _at_accuracy(run: Run, model: str, variant: str) -> str:
    rows = tables.accuracy(run)
    found = {r.variant: r for r in each_row(rows[rows["model"] == model])}
    mine, base = found.get(variant), found.get(baseline_of(run))
    if mine is None:
        return ""
    text = f", at an accuracy of {percent_of(mine)}"
    return f"{text} against {percent_of(base)}" if base is not None else text


def percent_of(row: Any) -> str:
    """The accuracy of a row of ``tables.accuracy``, with its interval."""
    return percent(row.accuracy, row.accuracy_low, row.accuracy_high)


def _accuracy_answer(run: Run) -> str:
    rows = tables.accuracy(run)
    variant = headline_variant(run, list(rows["variant"]))
    row = rows[rows["variant"] == variant].iloc[0]
    against = _at_accuracy(run, row["model"], variant).removeprefix(", at an accuracy of ")
    against = against.replace("against", f"against `{baseline_of(run)}`'s")
    return (
        f"{row['model']} as `{variant}` reaches an accuracy of {against}; no energy was measured "
        "or estimated."
    )


def device(run: Run, name: str) -> str:
    """A device as people know it: the processor's or the GPU's name."""
    environment = run.manifest.get("environment") or {}
    machine = environment.get("machine") or {}
    if name.startswith("cuda"):
        gpus = environment.get("gpus") or []
        index = int(name.partition(":")[2] or 0)
        gpu = gpus[index] if index < len(gpus) else None
        return str(gpu.get("name", name) if isinstance(gpu, Mapping) else gpu or name)
    for key in ("cpu", "cpu_model", "processor", "model"):
        found = machine.get(key) if isinstance(machine, Mapping) else None
        if isinstance(found, Mapping):
            found = found.get("model") or found.get("name") or found.get("brand")
        if found:
            return str(found)
    return name


# -- what must be known first --------------------------------------------------------------------


def notices(run: Run) -> list[str]:
    """One sentence each: the run did not finish; no sensor was readable."""
    what = simulated(run)
    warning = f"**Simulated sensors, nothing was measured**: {what}." if what else ""
    found = [warning, _status_notice(run), sensor_notice(run)]
    return [sentence for sentence in found if sentence]


def _status_notice(run: Run) -> str:
    if run.status in ("complete", "trained"):
        return ""
    word = {"interrupted": "was interrupted", "failed": "failed"}.get(run.status, "is unfinished")
    done = dict.fromkeys(str(stage).partition("|")[0] for stage in run.manifest["stages"])
    finished = f"stages finished: {listed(done)}" if done else "no stage was finished"
    return f"**This run {word}**: the report shows what there is ({finished})."


def sensor_notice(run: Run) -> str:
    """The sentence on sensors; empty where one was read, or where nothing was to be measured."""
    table = tables.sensors(run)
    kinds = set(run.measurements["provenance"].unique()) | set(run.training["provenance"].unique())
    if kinds & set(MEASURED) or (table.empty and not kinds & {"modelled", "timed"}):
        return ""
    real = table[table["provenance"] != "modelled"]
    readable = [
        str(name) for name, ok in zip(real["name"], real["readable"], strict=True) if ok is True
    ]
    if readable:
        if "modelled" not in kinds:
            return ""
        meters = listed(map(str, run.manifest.get("meters") or [])) or "a model"
        return (
            f"**No sensor was used**: energies come from {meters}, which models them, although "
            f"{listed(readable)} could be read."
        )
    looked = [_unusable(sensor) for sensor in real.to_dict("records")]
    if not looked:
        return "**No energy sensor was readable**; the run does not say which were looked for."
    hopeless = not any(real["remedy"])
    return (
        f"**No energy sensor was readable**; looked for were {listed(looked)}"
        f"{'; no command would make one readable here' if hopeless else ''}."
    )


FROM_LOAD = (
    "CodeCarbon modelled these energies from the processor's load, or a constant power, and the "
    "time. Their ratios follow the latency and hold no information on what the arithmetic takes."
)


def from_load(run: Run) -> bool:
    """Whether all energies per inference are CodeCarbon's model of load, and none was measured."""
    frame = run.measurements
    frame = frame[frame["energy_j"].notna()]
    by_codecarbon = frame["meter"].str.startswith(_CODECARBON)
    return bool(len(frame) and (by_codecarbon & (frame["provenance"] == "modelled")).all())


def _unusable(sensor: Mapping[Any, Any]) -> str:
    why = str(sensor["reason"]).rstrip(".") or (
        "not readable" if sensor["found"] else "not found on this machine"
    )
    remedy = f"; `{sensor['remedy']}` would make it so" if sensor["remedy"] else ""
    return f"{sensor['name']} ({why}{remedy})"
