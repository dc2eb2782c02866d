"""Training: full precision first, then each quantized variant from its weights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ttq_energy import training
from ttq_energy.pipeline.networks import Networks
from ttq_energy.pipeline.plan import Plan, Subject
from ttq_energy.progress import Progress
from ttq_energy.run import Run
from ttq_energy.variants import Variant

if TYPE_CHECKING:
    from ttq_energy.measurement import EnergyMonitor


def stage_key(subject: Subject, variant: Variant, seed: int) -> str:
    return f"train|{subject.title}|{variant.name}|{seed}"


def train_all(
    plan: Plan,
    run: Run,
    networks: Networks,
    monitor: EnergyMonitor | None,
    progress: Progress,
) -> None:
    """Train what the study asks for and is not done yet; rows go to training.csv as they come."""
    for subject in plan.subjects:
        if networks.random_weights(subject):
            run.add_message(f"{subject.title}: weights are random, drawn anew from the seed")
    for subject, variant, seed in _to_train(plan):
        if networks.random_weights(subject):
            continue
        key = stage_key(subject, variant, seed)
        if run.done(key):
            continue
        began = time.monotonic()
        seeds = f", seed {seed}" if len(plan.study.seeds) > 1 else ""
        progress.stage(f"Training {subject.title} {variant.name}{seeds}")
        _train_one(plan, run, networks, subject, variant, seed, monitor, progress)
        run.finish(key, time.monotonic() - began)
        if run.writes:
            checkpoint = run.checkpoint(subject.title, variant.name, seed)
            training.state_file(checkpoint).unlink(missing_ok=True)


def _to_train(plan: Plan) -> Iterator[tuple[Subject, Variant, int]]:
    for subject in plan.subjects:
        for seed in plan.study.seeds:
            for variant in plan.variants:
                if variant.trained:
                    yield subject, variant, seed


def _train_one(
    plan: Plan,
    run: Run,
    networks: Networks,
    subject: Subject,
    variant: Variant,
    seed: int,
    monitor: EnergyMonitor | None,
    progress: Progress,
) -> None:
    model = networks.fresh(subject, variant, seed)
    checkpoint = run.checkpoint(subject.title, variant.name, seed)
    spec = plan.study.training
    given = variant.name == "fp32" and subject.spec.checkpoint is not None
    if spec is None or subject.data is None or given:
        training.save_weights(checkpoint, model)
        return

    where: dict[str, str | int] = {
        "model": subject.title,
        "variant": variant.name,
        "seed": seed,
    }

    def keep(record: Any) -> None:
        # An epoch that a killed process had recorded, but not its state, is trained again.
        row = _row(record, subject, variant, seed)
        run.put("training", [row], **where, epoch=record.epoch)

    result = training.train(
        model,
        subject.data,
        spec,
        seed=seed,
        checkpoint=checkpoint,
        resume=True,
        on_epoch=keep,
        monitor=monitor,
        progress=progress,
        fine_tune=variant.quantizer is not None and variant.start == "fp32",
        keep_state=True,
    )
    rows = [
        {**_row(r, subject, variant, seed), "selected": r.epoch == result.selected_epoch}
        for r in result.records
    ]
    run.put("training", rows, **where)


def _row(record: Any, subject: Subject, variant: Variant, seed: int) -> dict[str, Any]:
    row = {"model": subject.title, "variant": variant.name, "seed": seed, "selected": False}
    return {**record.to_row(), **row}
