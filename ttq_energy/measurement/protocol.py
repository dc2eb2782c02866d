"""The measuring protocol: warm-up, idle windows, randomised interleaved rounds, stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.measurement.energy import headline_domains
from ttq_energy.measurement.idle import IdleWindow
from ttq_energy.measurement.machine import Machine
from ttq_energy.measurement.monitor import EnergyMonitor, Window
from ttq_energy.measurement.rows import Block, Phase, measurement_rows, total_domains, trace_rows
from ttq_energy.measurement.statistics import Comparison, compare
from ttq_energy.measurement.steady import WarmUp, warm_up
from ttq_energy.measurement.validity import Surroundings
from ttq_energy.meters.base import Provenance
from ttq_energy.study import MeasurementSpec

PERIODS_PER_BLOCK = 20.0
"""A block is at least this many update periods of the slowest sensor long (DESIGN rule 4)."""
BLOCK_MARGIN = 1.1
"""A call may be faster in a block than it was in the warm-up."""
IDLE_SHARE = 0.25
"""Idle windows between rounds take about this share of the time."""
WARM_UP_BUDGET_SHARE = 0.25
SETTLE_SHARE = 0.05
"""Share of a block's calls that run unmeasured before it, for caches and clocks."""

Event = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Workload:
    """One variant, ready to run.

    Attributes:
        variant: its name.
        call: runs one batch.
        inferences_per_call: examples in it.
        kernel: the code that runs, for the record.
        synchronize: waits until the device is done; None where calls are synchronous.
    """

    variant: str
    call: Callable[[], object]
    inferences_per_call: int
    kernel: str
    synchronize: Callable[[], object] | None = None

    def run(self, calls: int) -> None:
        """Run that many calls and wait until they are done."""
        call = self.call
        for _ in range(calls):
            call()
        if self.synchronize is not None:
            self.synchronize()


@dataclass
class ProtocolResult:
    """What a session of the protocol measured.

    Attributes:
        measurements: rows of ``run.TABLES["measurements"]``.
        traces: rows of ``run.TABLES["traces"]``.
        messages: what the user should know.
        comparisons: the last ratio by (variant, quantity, domain), as the stopping rule saw it.
        stopped: why the rounds ended: "precise", "rounds", "budget" or "interrupted".
    """

    measurements: list[dict[str, Any]] = field(default_factory=list)
    traces: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    comparisons: dict[tuple[str, str, str], Comparison] = field(default_factory=dict)
    stopped: str = ""


class ProtocolInterrupted(KeyboardInterrupt):
    """Ctrl-C during the protocol; ``result`` holds everything that was complete."""

    def __init__(self, result: ProtocolResult) -> None:
        super().__init__("interrupted while measuring")
        self.result = result


def run_protocol(
    workloads: Sequence[Workload],
    *,
    model: str,
    device: str,
    batch_size: int,
    spec: MeasurementSpec,
    monitor: EnergyMonitor,
    seed: int = 0,
    baseline: str | None = None,
    machine: Machine | None = None,
    on_event: Event | None = None,
) -> ProtocolResult:
    """Measure variants against each other in randomised, interleaved rounds.

    Each round runs every workload once, in random order; idle windows stand before, between and
    after. Rounds end when every ratio's 95 % interval is narrower than ``spec.target_width``
    (after ``min_rounds``), at ``max_rounds``, or when ``budget_s`` is spent: one round is always
    finished. Blocks that fail a gate stay in the record, marked, and enter no ratio.

    Args:
        workloads: one a variant.
        model, device, batch_size: for the record.
        spec: lengths, rounds, target and budget.
        monitor: a running monitor.
        seed: of the order.
        baseline: the variant divided by; None takes "fp32", else the first.
        machine: clock, sleep and the look at the machine; replaceable in tests.
        on_event: told of each stage as ("warmup" | "idle" | "block" | "round" | "done", details).

    Raises:
        InputError: no workload, a name twice, or an unknown baseline.
        ProtocolInterrupted: Ctrl-C; its ``result`` holds what was complete.
    """
    names = [workload.variant for workload in workloads]
    if not names:
        raise InputError("workloads: expected at least one variant to measure")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"workloads: the variant '{name}' stands twice")
    if baseline is None:
        baseline = "fp32" if "fp32" in names else names[0]
    elif baseline not in names:
        raise unknown_name("baseline variant", baseline, names)
    head = {"model": model, "device": device, "batch_size": batch_size}
    session = _Session(
        list(workloads), head, spec, monitor, baseline, machine or Machine(), on_event
    )
    try:
        session.run(np.random.default_rng(seed))
    except KeyboardInterrupt:
        session.stopped = "interrupted"
        raise ProtocolInterrupted(session.result()) from None
    return session.result()


class _Session:
    """One model and batch size being measured."""

    def __init__(
        self,
        workloads: list[Workload],
        head: dict[str, Any],
        spec: MeasurementSpec,
        monitor: EnergyMonitor,
        baseline: str,
        machine: Machine,
        on_event: Event | None,
    ) -> None:
        self.workloads, self.head, self.spec = workloads, head, spec
        self.monitor, self.baseline, self.machine = monitor, baseline, machine
        self._tell: Event = on_event or (lambda stage, details: None)
        self.messages: list[str] = []
        self.blocks: list[Block] = []
        self.idle: list[IdleWindow] = []
        self.idle_around: list[Surroundings] = []
        self.phases: list[Phase] = []
        self.calls: dict[str, int] = {}
        self.comparisons: dict[tuple[str, str, str], Comparison] = {}
        self.stopped = ""
        self.begun_s = machine.clock()

    # -- stages ----------------------------------------------------------------------------------

    def run(self, rng: np.random.Generator) -> None:
        self._messages_of_the_sensors()
        self._warm_up_all()
        self._idle("before")
        self._rounds(rng)
        self._idle("after")
        self._tell("done", {"rounds": self._rounds_done(), "stopped": self.stopped})

    def _messages_of_the_sensors(self) -> None:
        self.messages.extend(self.monitor.messages)
        longest = self.block_s
        if longest > self.spec.block_s:
            self.messages.append(
                f"blocks are {longest:.3g} s long, not {self.spec.block_s:.3g} s: "
                f"{PERIODS_PER_BLOCK:.0f} update periods of the slowest sensor"
            )

    @property
    def block_s(self) -> float:
        """Length of a block that every measuring sensor resolves."""
        return max(self.spec.block_s, PERIODS_PER_BLOCK * self.monitor.slowest_period_s())

    def _warm_up_all(self) -> None:
        budget = WARM_UP_BUDGET_SHARE * self.spec.budget_s / len(self.workloads)
        for workload in self.workloads:
            start = self.machine.clock()
            done = warm_up(
                workload.run,
                self.machine.clock,
                min(self.spec.warmup_s, budget),
                self._power_traces if self.monitor.domains else None,
            )
            self.phases.append(Phase("warmup", start, self.machine.clock(), workload.variant))
            self._plan_calls(workload.variant, done.call_s)
            self._report_warm_up(workload, done)

    def _plan_calls(self, variant: str, call_s: float) -> None:
        """Calls that fill a block with some to spare; never fewer than before."""
        wanted = math.ceil(BLOCK_MARGIN * self.block_s / max(call_s, 1e-9))
        self.calls[variant] = max(self.calls.get(variant, 1), wanted)

    def _report_warm_up(self, workload: Workload, done: WarmUp) -> None:
        if not done.steady:
            self.messages.append(
                f"{workload.variant}: not steady after {done.duration_s:.2g} s of warm-up"
            )
        self._tell(
            "warmup",
            {
                "variant": workload.variant,
                "call_s": done.call_s,
                "duration_s": done.duration_s,
                "steady": done.steady,
            },
        )

    def _power_traces(self, start_s: float, end_s: float) -> list[tuple[Any, Any]]:
        return [
            self.monitor.power_trace(name, start_s, end_s)
            for name, domain in self.monitor.domains.items()
            if domain.additive and domain.provenance is not Provenance.MODELLED
        ]

    def _idle(self, place: str) -> None:
        if self.spec.idle_s <= 0:
            return
        self._tell("idle", {"place": place, "duration_s": self.spec.idle_s})
        self.machine.sleep(min(0.25 * self.spec.idle_s, 0.5))  # the power of the block dies away
        window, around = self._watched(lambda: self.machine.sleep(self.spec.idle_s))
        assert window.end_s is not None
        self.idle.append(IdleWindow(window.start_s, window.end_s, window.energy))
        self.idle_around.append(around)
        self.phases.append(Phase("idle", window.start_s, window.end_s))

    def _rounds(self, rng: np.random.Generator) -> None:
        spec = self.spec
        between = 0
        for number in range(spec.max_rounds):
            begun = self.machine.clock()
            for position in rng.permutation(len(self.workloads)):
                self._block(self.workloads[int(position)], number)
            round_s = self.machine.clock() - begun
            precise = self._judge()
            self._tell(
                "round",
                {
                    "round": number,
                    "rounds": spec.max_rounds,
                    "elapsed_s": self.machine.clock() - self.begun_s,
                    "budget_s": spec.budget_s,
                    "width": self._widest(),
                },
            )
            if number + 1 >= spec.min_rounds and precise:
                self.stopped = "precise"
                return
            if self.machine.clock() - self.begun_s + round_s + 1.25 * spec.idle_s > spec.budget_s:
                self.stopped = "budget"
                self._report_budget(number + 1)
                return
            between += 1
            if number + 1 < spec.max_rounds and between >= self._rounds_between_idle(round_s):
                self._idle("between")
                between = 0
        self.stopped = "rounds"

    def _report_budget(self, rounds: int) -> None:
        if rounds < self.spec.min_rounds:
            self.messages.append(
                f"the budget of {self.spec.budget_s:g} s was spent after {rounds} rounds; "
                f"at least {self.spec.min_rounds} were wanted"
            )

    def _rounds_between_idle(self, round_s: float) -> int:
        if self.spec.idle_s <= 0:
            return self.spec.max_rounds
        wanted = math.ceil(1.25 * self.spec.idle_s * (1.0 / IDLE_SHARE - 1.0) / max(round_s, 1e-3))
        return max(1, min(wanted, math.ceil(self.spec.min_rounds / 2)))

    def _block(self, workload: Workload, number: int) -> None:
        calls = self.calls[workload.variant]
        workload.run(max(1, int(SETTLE_SHARE * calls)))
        window, around = self._watched(lambda: workload.run(calls))
        block = Block(
            index=len(self.blocks),
            round=number,
            variant=workload.variant,
            kernel=workload.kernel,
            inferences=calls * workload.inferences_per_call,
            window=window,
            around=around,
            calls=calls,
        )
        self.blocks.append(block)
        if window.duration_s < self.block_s:
            self._plan_calls(workload.variant, window.duration_s / calls)
        assert window.end_s is not None
        self.phases.append(
            Phase("block", window.start_s, window.end_s, workload.variant, block.index)
        )
        self._tell(
            "block",
            {
                "round": number,
                "block": block.index,
                "variant": workload.variant,
                "duration_s": window.duration_s,
                "seconds_per_inference": window.duration_s / block.inferences,
            },
        )

    def _watched(self, work: Callable[[], object]) -> tuple[Window, Surroundings]:
        conditions_before, before = self._conditions(), self.machine.state()
        with self.monitor.window("protocol") as window:
            work()
        after, conditions_after = self.machine.state(), self._conditions()
        gpu = _gpu_of(str(self.head["device"]))
        return window, Surroundings(before, after, conditions_before, conditions_after, gpu)

    def _conditions(self) -> Mapping[str, float | str | bool]:
        return {
            f"{meter.name}.{key}": value
            for meter in self.monitor.meters
            for key, value in meter.conditions().items()
        }

    # -- judging ---------------------------------------------------------------------------------

    def _rounds_done(self) -> int:
        return len({block.round for block in self.blocks})

    def _judge(self) -> bool:
        """Update the ratios; True where every one is as precise as wanted."""
        if self._rounds_done() < min(self.spec.min_rounds, 2) or len(self.workloads) < 2:
            return False
        rows = self._rows()
        domains = self._headline()
        values = {
            (row["round"], row["variant"], row["domain"]): row for row in rows if row["valid"]
        }
        rounds = sorted({row["round"] for row in rows})
        self.comparisons = {}
        for workload in self.workloads:
            if workload.variant == self.baseline:
                continue
            for domain in domains:
                pairs = [
                    (base, other)
                    for number in rounds
                    if (base := values.get((number, self.baseline, domain)))
                    and (other := values.get((number, workload.variant, domain)))
                ]
                for quantity, column in (("latency", "duration_s"), ("gross_energy", "energy_j")):
                    found = _ratio(pairs, column)
                    if found is not None:
                        self.comparisons[workload.variant, quantity, domain] = found
        return bool(self.comparisons) and self._widest() <= self.spec.target_width

    def _widest(self) -> float:
        return max((c.width for c in self.comparisons.values()), default=math.inf)

    def _headline(self) -> list[str]:
        total = total_domains(self.blocks[-1].window.energy)
        if total:
            return ["total"]
        chosen = headline_domains(self.blocks[-1].window.energy.domains)
        return [domain.domain for domain in chosen] or ["none"]

    def _rows(self) -> list[dict[str, Any]]:
        shortest = {
            name: PERIODS_PER_BLOCK * domain.update_period_s
            for name, domain in self.monitor.domains.items()
            if domain.provenance is not Provenance.MODELLED
        }
        return measurement_rows(
            self.blocks,
            self.head,
            self.idle,
            self.idle_around,
            self.machine.cores,
            shortest,
            self.monitor.power_sensors(),
        )

    def result(self) -> ProtocolResult:
        """Everything complete so far."""
        rows = self._rows()
        messages = [*self.messages, *_messages_of_rows(rows)]
        traces = trace_rows(self.phases, self.head, self.monitor, self.begun_s)
        return ProtocolResult(rows, traces, messages, self.comparisons, self.stopped)


def _gpu_of(device: str) -> int | None:
    """Position of the GPU that a torch device names; None for the CPU."""
    kind, _, number = device.partition(":")
    return (int(number) if number.isdigit() else 0) if kind == "cuda" else None


def _ratio(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], column: str
) -> Comparison | None:
    pairs = [p for p in pairs if all(row[column] is not None and row[column] > 0 for row in p)]
    if not pairs:
        return None
    baseline, variant = (
        [row[column] / row["inferences"] for row in s] for s in zip(*pairs, strict=True)
    )
    return compare(baseline, variant)


def _messages_of_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per kind of problem, with how many blocks it touched."""
    blocks = {row["block"] for row in rows}
    touched: dict[str, set[int]] = {}
    for row in rows:
        for reason in str(row["invalid_reason"] or "").split("; "):
            if reason:
                kind = reason.split(":")[0] if not reason.startswith("sensor: ") else reason
                touched.setdefault(kind, set()).add(row["block"])
    return [f"{len(hit)} of {len(blocks)} blocks left out: {kind}" for kind, hit in touched.items()]
