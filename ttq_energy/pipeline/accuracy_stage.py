"""Accuracy of what runs: every variant that is not trained itself, through its kernels."""

from __future__ import annotations

import time
from typing import Any

from ttq_energy import training
from ttq_energy.pipeline.executables import executable
from ttq_energy.pipeline.networks import Networks
from ttq_energy.pipeline.plan import Plan, Subject
from ttq_energy.progress import Progress
from ttq_energy.run import Run
from ttq_energy.variants import Variant

BATCH_SIZE = 128


def score_all(plan: Plan, run: Run, networks: Networks, progress: Progress) -> None:
    """Test the variants that run another's weights; their rows in training.csv bear no cost.

    Trained variants are tested through their kernels too: a message tells where the kernels give
    another accuracy than training did.
    """
    for subject in plan.subjects:
        key = f"test|{subject.title}"
        if subject.data is None or run.done(key):
            continue
        began = time.monotonic()
        progress.stage(f"Testing {subject.title}")
        for variant in plan.variants:
            progress.update(variant.name)
            for seed in plan.study.seeds:
                _score_one(plan, run, networks, subject, variant, seed)
        run.finish(key, time.monotonic() - began)


def _score_one(
    plan: Plan, run: Run, networks: Networks, subject: Subject, variant: Variant, seed: int
) -> None:
    assert subject.data is not None
    network = networks.runnable(subject, variant, seed, plan.device)
    example = subject.example(BATCH_SIZE)
    ready = executable(variant, network, example, plan.device, subject.calibration())
    correct, total = training.evaluate(ready.module, subject.data, BATCH_SIZE)
    trained = _reported(run, subject.title, variant.of, seed)
    if variant.trained and trained is not None:
        if round(float(trained["accuracy"]) * total) != correct:
            run.add_message(
                f"{subject.title} {variant.name}: {correct} of {total} right through "
                f"{ready.kernel}, {float(trained['accuracy']):.2%} when it was trained"
            )
        return
    low, high = training.wilson_interval(correct, total)
    row = {
        "model": subject.title,
        "variant": variant.name,
        "seed": seed,
        "epoch": trained["epoch"] if trained is not None else 0,
        "accuracy": correct / total,
        "accuracy_low": low,
        "accuracy_high": high,
        "examples": total,
        "selected": True,
    }
    run.put("training", [row], model=subject.title, variant=variant.name, seed=seed)


def _reported(run: Run, model: str, variant: str, seed: int) -> dict[str, Any] | None:
    """The training row of the weights that are reported, if they were trained here."""
    table = run.training
    here = table[
        (table["model"] == model)
        & (table["variant"] == variant)
        & (table["seed"] == seed)
        & table["selected"].astype(bool)
    ]
    return {str(k): v for k, v in here.iloc[0].items()} if len(here) else None
