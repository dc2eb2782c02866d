"""The sections of one run's report, in order; one without data is absent."""

from __future__ import annotations

from collections.abc import Callable

from ttq_energy.reporting.document import Section
from ttq_energy.reporting.sections import about, estimated, measured, trained
from ttq_energy.run import Run

_IN_ORDER: tuple[Callable[[Run], Section | None], ...] = (
    about.hardware_and_software,
    trained.accuracy_against_energy,
    measured.energy_and_latency,
    measured.power_over_time,
    trained.training,
    trained.ablation,
    estimated.per_layer,
    estimated.targets,
    estimated.measured_against_modelled,
)


def sections(run: Run, country: str | None = None) -> tuple[Section, ...]:
    """Every section that the run has data for.

    Args:
        run: read, not changed.
        country: ISO 3166 code for the carbon section; None leaves it out.
    """
    found = [make(run) for make in _IN_ORDER]
    missing = []
    if country is not None:
        carbon = estimated.carbon(run, country)
        found.append(carbon)
        missing += [] if carbon else [estimated.no_carbon(country)]
    found += [about.left_out(run, missing), about.method(run)]
    return tuple(section for section in found if section is not None)
