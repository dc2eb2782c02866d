"""Counting and estimating: each variant's layers, then its energy on each target."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ttq_energy import energy_model
from ttq_energy.pipeline.networks import Networks
from ttq_energy.pipeline.plan import Plan, Subject
from ttq_energy.progress import Progress
from ttq_energy.run import Run
from ttq_energy.variants import BASELINE

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ttq_energy.energy_model import EnergyRatio, Estimate

ZEROS_BATCH = 64
ZEROS_LEAST_BATCH = 8
ZEROS_MACS = 64_000_000_000
"""Of one pass that looks for zeros: a few seconds of one core."""
EXECUTION_BITS = {"bf16": 16, "int8": 8, "packed-int8": 8}
"""Width of activations as a variant computes with them; elsewhere that of the tensors."""


def estimate_all(plan: Plan, run: Run, networks: Networks, progress: Progress) -> None:
    """Count every variant of every network and estimate it on every target."""
    for subject in plan.subjects:
        key = f"estimate|{subject.title}"
        if run.done(key):
            continue
        began = time.monotonic()
        progress.stage(f"Estimating {subject.title}")
        _estimate_one(plan, run, networks, subject, progress)
        run.finish(key, time.monotonic() - began)


def _estimate_one(
    plan: Plan, run: Run, networks: Networks, subject: Subject, progress: Progress
) -> None:
    """All rows of one network at once, in the place of those that a killed process left."""
    layers, estimates, ratios = [], [], []
    baselines: dict[str, Estimate] = {}
    zeros_of: dict[str, dict[str, float]] = {}
    """By checkpoint: variants of one differ in widths alone, which change no zero."""
    for variant in plan.variants:
        progress.update(f"counting {variant.name}")
        model = networks.trained(subject, variant, plan.study.seeds[0])
        bits = EXECUTION_BITS.get(variant.execution)
        counts = energy_model.count(model, subject.example(1), activation_bits=bits)
        layers += energy_model.layer_rows(subject.title, variant.name, counts)
        if plan.targets and variant.of not in zeros_of:
            zeros_of[variant.of] = _activation_zeros(model, subject, counts)
        zeros = zeros_of.get(variant.of, {})
        for target in plan.targets:
            progress.update(f"{variant.name} on {target.name}")
            estimate = energy_model.estimate(counts, target=target, activation_zeros=zeros)
            estimates += energy_model.estimate_rows(
                subject.title, variant.name, target.name, estimate
            )
            if variant.name == BASELINE:
                baselines[target.name] = estimate
                continue
            ratio = energy_model.compare_estimates(baselines[target.name], estimate)
            where = {"model": subject.title, "target": target.name, "variant": variant.name}
            ratios.append({**where, **_ratio_entry(ratio)})
            for note in estimate.notes:
                run.add_message(f"{subject.title} {variant.name} on {target.name}: {note}")
    run.put("layers", layers, model=subject.title)
    run.put("estimates", estimates, model=subject.title)
    before = run.manifest.get("estimate_ratios", [])
    others = [entry for entry in before if entry["model"] != subject.title]
    run.update(estimate_ratios=[*others, *ratios])


def _ratio_entry(ratio: EnergyRatio) -> dict[str, float | str]:
    """A ratio under the same draws on both sides, which the tables' ranges alone do not give."""
    return {
        "ratio": ratio.ratio,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "latency_ratio": ratio.latency_ratio,
        "verdict": ratio.verdict,
    }


def _activation_zeros(
    model: torch.nn.Module, subject: Subject, counts: pd.DataFrame
) -> dict[str, float]:
    """The zeros in each layer's input, on a batch of the test data (or of the example input)."""
    batch = examples_for_zeros(int(counts["macs"].sum()))
    zeros: dict[str, float] = energy_model.activation_zeros(model, subject.example(batch))
    return zeros


def examples_for_zeros(macs: int) -> int:
    """How many examples show a network's zeros: fewer where one of them takes long.

    Args:
        macs: of one example.
    """
    return max(ZEROS_LEAST_BATCH, min(ZEROS_BATCH, ZEROS_MACS // max(1, macs)))
