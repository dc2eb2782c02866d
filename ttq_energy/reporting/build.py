"""From a Run, or several, to a Report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ttq_energy.reporting.answer import simulated
from ttq_energy.reporting.document import Block, FigureView, Report
from ttq_energy.reporting.front import front
from ttq_energy.reporting.sections import sections
from ttq_energy.reporting.tables.gather import Runs, Snapshot, as_list
from ttq_energy.run import Run

SIMULATED = "SIMULATED SENSORS: nothing here was measured"


def build_report(runs: Runs, country: str | None = None) -> Report:
    """Everything that the report says; the renderers only give it a form.

    Args:
        runs: one Run, or several to be compared.
        country: ISO 3166 code for carbon; None takes the study's.
    """
    listed = [Snapshot(run) for run in as_list(runs)]
    if len(listed) > 1:
        from ttq_energy.reporting.comparing import compare_runs

        report = compare_runs(listed, country)
    else:
        report = _one(listed[0], country)
    return _warned(report) if any(simulated(run) for run in listed) else report


def _warned(report: Report) -> Report:
    """The report of a run whose sensors were simulated says so on every page and plot."""

    def marked(blocks: Sequence[Block]) -> tuple[Block, ...]:
        return tuple(
            replace(b, stamp=SIMULATED) if isinstance(b, FigureView) else b for b in blocks
        )

    front = replace(
        report.front,
        blocks=marked(report.front.blocks),
        verdict=f"{report.front.verdict} (simulated)" if report.front.verdict else "",
        provenance=f"simulated sensors, shown as {report.front.provenance}"
        if report.front.provenance
        else "",
    )
    sections = tuple(replace(s, blocks=marked(s.blocks)) for s in report.sections)
    return replace(report, front=front, sections=sections, warning=SIMULATED)


def _one(run: Run, country: str | None) -> Report:
    study = run.manifest.get("study") or {}
    created = str(run.manifest.get("created") or "")
    country = study.get("country") if country is None else country
    date = created.partition("T")[0]
    subtitle = ", ".join(part for part in (f"run {run.folder.resolve().name}", date) if part)
    return Report(
        title=f"Energy report: {study.get('name') or run.folder.name}",
        subtitle=subtitle,
        created=created,
        front=front(run),
        sections=sections(run, country),
    )
