"""Measuring: every variant through its kernels, interleaved, a protocol a model and batch size."""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ttq_energy.measurement import (
    ProtocolInterrupted,
    ProtocolResult,
    Workload,
    compare_measurements,
    run_protocol,
)
from ttq_energy.meters.nvml_settings import gpu_settings
from ttq_energy.pipeline.executables import Executable, executable
from ttq_energy.pipeline.networks import Networks
from ttq_energy.pipeline.plan import Plan, Subject
from ttq_energy.progress import Progress
from ttq_energy.run import Run
from ttq_energy.study import MeasurementSpec
from ttq_energy.variants import BASELINE

if TYPE_CHECKING:
    import torch

    from ttq_energy.measurement import EnergyMonitor


def measure_all(
    plan: Plan, run: Run, networks: Networks, monitor: EnergyMonitor, progress: Progress
) -> None:
    """Measure each model and batch size that is not done yet.

    What does not run on a GPU, for want of memory or of a kernel that compiles, is left out, and a
    message says so.
    """
    spec = plan.study.measurement
    if spec is None:
        return
    if plan.device.startswith("cuda"):
        for sentence in gpu_settings():
            run.add_message(sentence)
    for subject in plan.subjects:
        for batch_size in spec.batch_sizes:
            key = f"measure|{subject.title}|{batch_size}"
            if run.done(key):
                continue
            began = time.monotonic()
            progress.stage(f"Measuring {subject.title}, batch size {batch_size}")
            _measure_one(plan, run, networks, subject, batch_size, monitor, progress)
            run.finish(key, time.monotonic() - began)
        networks.forget()


def _measure_one(
    plan: Plan,
    run: Run,
    networks: Networks,
    subject: Subject,
    batch_size: int,
    monitor: EnergyMonitor,
    progress: Progress,
) -> None:
    spec, device = plan.study.measurement, plan.device
    assert spec is not None
    where = f"{subject.title}, batch size {batch_size}"
    example = subject.example(batch_size)
    prepared: list[Executable] = []
    try:
        for variant in plan.variants:
            progress.update(f"preparing {variant.name}")
            with _left_out(run, f"{where}: {variant.name}", device):
                network = networks.runnable(subject, variant, plan.study.seeds[0], device)
                calibration = subject.calibration()
                prepared.append(executable(variant, network, example, device, calibration))
        if all(item.variant != BASELINE for item in prepared):
            run.add_message(f"{where}: not measured, since the baseline {BASELINE} does not run")
            return
        for item in prepared:
            note_kernel(run, item.variant, subject.title, batch_size, item.kernel)
        with _left_out(run, where, device):
            measure(
                run,
                prepared,
                example.to(device),
                model=subject.title,
                device=device,
                spec=spec,
                monitor=monitor,
                progress=progress,
            )
    finally:
        prepared.clear()
        _free(device)


@contextlib.contextmanager
def _left_out(run: Run, what: str, device: str) -> Iterator[None]:
    """On a GPU: turn what does not run into a message; a broken device is still an error."""
    if not device.startswith("cuda"):
        yield
        return
    try:
        yield
    except RuntimeError as error:
        if "CUDA error" in str(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        run.add_message(f"{what}: left out: {reason}")
    _free(device)


def _free(device: str) -> None:
    """Give back the GPU memory of what is no longer needed."""
    if device.startswith("cuda"):
        import torch

        gc.collect()
        torch.cuda.empty_cache()


def measure(
    run: Run,
    executables: list[Executable],
    example: torch.Tensor,
    *,
    model: str,
    device: str,
    spec: MeasurementSpec,
    monitor: EnergyMonitor,
    progress: Progress,
    baseline: str = BASELINE,
) -> None:
    """Run the protocol over ready executables and append what it gives to the Run."""
    import torch

    on_gpu = device.startswith("cuda")
    synchronize = functools.partial(torch.cuda.synchronize, device) if on_gpu else None
    with torch.inference_mode():
        workloads = [
            Workload(
                variant=item.variant,
                call=_call(item.module, example),
                inferences_per_call=len(example),
                kernel=item.kernel,
                synchronize=synchronize,
            )
            for item in executables
        ]
        try:
            result = run_protocol(
                workloads,
                model=model,
                device=device,
                batch_size=len(example),
                spec=spec,
                monitor=monitor,
                on_event=lambda stage, details: progress.update(_sentence(stage, details)),
                baseline=baseline,
            )
        except ProtocolInterrupted as stopped:
            _keep(run, stopped.result, model, len(example), baseline)
            raise
    _keep(run, result, model, len(example), baseline)


def _sentence(stage: str, details: Mapping[str, Any]) -> str:
    """A protocol event for people."""
    if stage == "warmup":
        return f"warmed up {details['variant']} in {details['duration_s']:.1f} s"
    if stage == "idle":
        return f"idle for {details['duration_s']:g} s"
    if stage == "block":
        milliseconds = 1e3 * details["seconds_per_inference"]
        return f"round {details['round'] + 1}, {details['variant']}: {milliseconds:.3g} ms each"
    if stage == "round":
        spent = f"{details['elapsed_s']:.0f} of at most {details['budget_s']:.0f} s"
        return f"round {details['round'] + 1} of at most {details['rounds']} done, {spent}"
    return f"{details['rounds']} rounds measured"


def _keep(run: Run, result: ProtocolResult, model: str, batch_size: int, baseline: str) -> None:
    """Write what was measured; a measurement done again takes the place of the unfinished one."""
    where: dict[str, str | int] = {"model": model, "batch_size": batch_size}
    run.put("measurements", result.measurements, **where)
    run.put("traces", result.traces, **where)
    rows = run.measurements
    here = rows[(rows["model"] == model) & (rows["batch_size"] == batch_size)]
    run.put("comparisons", compare_measurements(here, baseline=baseline), **where)
    for message in result.messages:
        run.add_message(f"{model}, batch size {batch_size}: {message}")


def _call(module: torch.nn.Module, example: torch.Tensor) -> Any:
    return lambda: module(example)


def note_kernel(run: Run, variant: str, model: str, batch_size: int, kernel: str) -> None:
    """Record in run.json which kernel ran a variant."""
    entries = {**run.manifest.get("variants", {})}
    entry = {**entries.get(variant, {})}
    entry["kernels"] = {**entry.get("kernels", {}), f"{model}|{batch_size}": kernel}
    entries[variant] = entry
    run.update(variants=entries)
