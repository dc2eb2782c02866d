"""From a Run, or several, to a Report."""

from __future__ import annotations

from ttq_energy.reporting.document import Report
from ttq_energy.reporting.front import front
from ttq_energy.reporting.sections import sections
from ttq_energy.reporting.tables.gather import Runs, Snapshot, as_list
from ttq_energy.run import Run


def build_report(runs: Runs, country: str | None = None) -> Report:
    """Everything that the report says; the renderers only give it a form.

    Args:
        runs: one Run, or several to be compared.
        country: ISO 3166 code for carbon; None takes the study's.
    """
    listed = [Snapshot(run) for run in as_list(runs)]
    if len(listed) > 1:
        from ttq_energy.reporting.comparing import compare_runs

        return compare_runs(listed, country)
    return _one(listed[0], country)


def _one(run: Run, country: str | None) -> Report:
    study = run.manifest.get("study") or {}
    created = str(run.manifest.get("created") or "")
    country = country or study.get("country")
    date = created.partition("T")[0]
    subtitle = ", ".join(part for part in (f"run {run.folder.resolve().name}", date) if part)
    return Report(
        title=f"Energy report: {study.get('name') or run.folder.name}",
        subtitle=subtitle,
        created=created,
        front=front(run),
        sections=sections(run, country),
    )
