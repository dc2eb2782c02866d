"""Training: full precision first, then each quantized variant from its weights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_energy import training
from ttq_energy.pipeline.plan import Plan, Subject
from ttq_energy.progress import Progress
from ttq_energy.quantization import config_from_dict, prepare_
from ttq_energy.run import Run
from ttq_energy.variants import Variant

if TYPE_CHECKING:
    import torch

    from ttq_energy.measurement import EnergyMonitor


def stage_key(subject: Subject, variant: Variant, seed: int) -> str:
    return f"train|{subject.title}|{variant.name}|{seed}"


def train_all(plan: Plan, run: Run, monitor: EnergyMonitor | None, progress: Progress) -> None:
    """Train what the study asks for and is not done yet; rows go to training.csv as they come."""
    for subject, variant, seed in _to_train(plan):
        key = stage_key(subject, variant, seed)
        if run.done(key):
            continue
        began = time.monotonic()
        seeds = f", seed {seed}" if len(plan.study.seeds) > 1 else ""
        progress.stage(f"Training {subject.title} {variant.name}{seeds}")
        _train_one(plan, run, subject, variant, seed, monitor, progress)
        run.finish(key, time.monotonic() - began)


def _to_train(plan: Plan) -> Iterator[tuple[Subject, Variant, int]]:
    for subject in plan.subjects:
        for seed in plan.study.seeds:
            for variant in plan.variants:
                if variant.trained:
                    yield subject, variant, seed


def _quantize_(model: torch.nn.Module, subject: Subject, variant: Variant) -> None:
    """Put the variant's quantizers on a model, in place; none for a dense variant."""
    if variant.quantizer is not None:
        prepare_(
            model,
            config_from_dict(variant.quantizer),
            skip=variant.skip,
            example_input=subject.example(1),
        )


def fresh_model(run: Run, subject: Subject, variant: Variant, seed: int) -> torch.nn.Module:
    """The network as ``variant`` trains it, with the weights it starts from."""
    model = subject.build(seed)
    if variant.name == "fp32":
        if subject.spec.checkpoint is not None:
            training.load_weights(Path(subject.spec.checkpoint), model)
    elif variant.start == "fp32":
        training.load_weights(run.checkpoint(subject.title, "fp32", seed), model)
    _quantize_(model, subject, variant)
    return model


def trained_model(run: Run, subject: Subject, variant: Variant, seed: int) -> torch.nn.Module:
    """The network with the reported weights of ``variant``, in evaluation mode."""
    model = subject.build(seed)
    _quantize_(model, subject, variant)
    training.load_weights(run.checkpoint(subject.title, variant.of, seed), model)
    return model.eval()


def _train_one(
    plan: Plan,
    run: Run,
    subject: Subject,
    variant: Variant,
    seed: int,
    monitor: EnergyMonitor | None,
    progress: Progress,
) -> None:
    model = fresh_model(run, subject, variant, seed)
    checkpoint = run.checkpoint(subject.title, variant.name, seed)
    spec = plan.study.training
    given = variant.name == "fp32" and subject.spec.checkpoint is not None
    if spec is None or subject.data is None or given:
        training.save_weights(checkpoint, model)
        return

    def keep(record: Any) -> None:
        run.append("training", [_row(record, subject, variant, seed)])

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
    )
    rows = [
        {**_row(r, subject, variant, seed), "selected": r.epoch == result.selected_epoch}
        for r in result.records
    ]
    run.put("training", rows, model=subject.title, variant=variant.name, seed=seed)


def _row(record: Any, subject: Subject, variant: Variant, seed: int) -> dict[str, Any]:
    row = {"model": subject.title, "variant": variant.name, "seed": seed, "selected": False}
    return {**record.to_row(), **row}
