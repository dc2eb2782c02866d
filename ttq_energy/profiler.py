"""The main job: a Study becomes a Run.

Train full precision, then each quantized variant; count and estimate; measure every variant through
its kernels; report. Each stage is recorded, so that an interrupted job continues where it stopped.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_energy import environment
from ttq_energy.errors import InputError
from ttq_energy.files import sole_writer, user_path, writable_folder
from ttq_energy.meters import probe_all
from ttq_energy.progress import Progress
from ttq_energy.records import check_record
from ttq_energy.reporting.carbon import country_factor
from ttq_energy.run import Run, create_run, follow_run, load_run
from ttq_energy.study import MeasurementSpec, Study, load_study

if TYPE_CHECKING:
    import torch

    from ttq_energy.energy_model.targets import Target
    from ttq_energy.measurement import EnergyMonitor
    from ttq_energy.pipeline.plan import Plan

StudyLike = Study | str | os.PathLike[str]


def profile(
    study: StudyLike | Mapping[str, torch.nn.Module],
    *,
    inputs: torch.Tensor | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    targets: Sequence[str] = (),
    measurement: MeasurementSpec | None = None,
    progress: Progress | None = None,
    command: Sequence[str] | None = None,
) -> Run:
    """Run a study, or profile models that are already in memory.

    Args:
        study: a Study, the path or shipped name of one, or a mapping of variant names to modules
            (the first, or "fp32", is the baseline).
        inputs: with modules: the batch that each is called with.
        out: the Run folder; ``runs/<study>-<time>`` if None.
        resume: continue an unfinished Run of the same study.
        targets: with modules: accelerators to estimate them on.
        measurement: with modules: the protocol; its batch size is that of ``inputs``.
        progress: told what happens; silent if None.
        command: the command line, for the record.

    Returns:
        The finished Run.

    Raises:
        InputError: the study, a name in it or a folder is wrong; nothing is then written.
        SensorError: a meter asked for by name is absent.
        KeyboardInterrupt: the Run is left readable and can be resumed.
    """
    told = progress or Progress()
    if isinstance(study, Mapping):
        if resume:
            raise InputError("profile: resume goes with a study, not with modules")
        return _profile_modules(study, inputs, out, targets, measurement, told, command)
    if not isinstance(study, Study | str | os.PathLike):
        raise InputError(
            "profile: expected a Study, its path or name, or a mapping of names to modules, got "
            f"{type(study).__name__}"
        )
    if inputs is not None or targets or measurement is not None:
        raise InputError(
            "profile: inputs, targets and measurement go with modules, not with a study"
        )
    return _run_study(study, out, resume, told, command, measure=True)


def train(
    study: StudyLike,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    command: Sequence[str] | None = None,
) -> Run:
    """Only the training of a study; see :func:`profile`. ``profile(..., resume=True)`` goes on."""
    return _run_study(study, out, resume, progress or Progress(), command, measure=False)


def _run_study(
    study: StudyLike,
    out: str | os.PathLike[str] | None,
    resume: bool,
    progress: Progress,
    command: Sequence[str] | None,
    *,
    measure: bool,
) -> Run:
    with _own_defaults():
        return _run(study, out, resume, progress, command, measure=measure)


def _run(
    study: StudyLike,
    out: str | os.PathLike[str] | None,
    resume: bool,
    progress: Progress,
    command: Sequence[str] | None,
    *,
    measure: bool,
) -> Run:
    from ttq_energy.pipeline.plan import make_plan

    chosen = study if isinstance(study, Study) else load_study(study)
    check_record(chosen)
    if chosen.country is not None:
        country_factor(chosen.country)
    writes = _one_of_several(measure, out)
    folder = _folder(chosen, out, resume)
    if resume:
        _check_same_study(load_run(folder), chosen)
    elif writes and (folder / "run.json").exists():
        raise InputError(f"{folder}: already holds a run; give another --out, or --resume")
    plan = make_plan(chosen)
    monitor = plan.monitor()
    with sole_writer(writable_folder(folder)) if writes else nullcontext():
        if not writes:
            run = follow_run(folder)
        elif resume:
            run = load_run(folder)
            run.remove_unfinished()
        else:
            run = create_run(folder, chosen.to_dict(), {})
        with _threads(chosen.measurement):  # as the job will run
            _describe(run, monitor, command, resume)
        _describe_plan(run, plan)
        with _guarded(run, progress, "complete" if measure else "trained"), monitor:
            _stages(plan, run, monitor, progress, measure)
    return run


def _stages(
    plan: Plan, run: Run, monitor: EnergyMonitor, progress: Progress, measure: bool
) -> None:
    from ttq_energy.pipeline.accuracy_stage import score_all
    from ttq_energy.pipeline.estimate_stage import estimate_all
    from ttq_energy.pipeline.measurement_stage import measure_all
    from ttq_energy.pipeline.networks import Networks
    from ttq_energy.pipeline.training_stage import train_all

    networks = Networks(plan, run)
    with _threads(plan.study.measurement):
        train_all(plan, run, networks, monitor, progress)
        if measure:
            score_all(plan, run, networks, progress)
            estimate_all(plan, run, networks, progress)
            measure_all(plan, run, networks, monitor, progress)


def _profile_modules(
    modules: Mapping[str, torch.nn.Module],
    inputs: torch.Tensor | None,
    out: str | os.PathLike[str] | None,
    targets: Sequence[str],
    measurement: MeasurementSpec | None,
    progress: Progress,
    command: Sequence[str] | None,
) -> Run:
    import torch

    from ttq_energy import kernels
    from ttq_energy.energy_model import count, estimate, estimate_rows, layer_rows
    from ttq_energy.energy_model.targets import load
    from ttq_energy.measurement import EnergyMonitor
    from ttq_energy.pipeline.executables import Executable
    from ttq_energy.pipeline.in_memory import baseline_of, study_of_modules
    from ttq_energy.pipeline.measurement_stage import measure, note_kernel

    study = study_of_modules(modules, inputs, targets, measurement)
    assert isinstance(inputs, torch.Tensor)
    assert study.measurement is not None
    spec, baseline = study.measurement, baseline_of(modules)
    chosen = [load(name) for name in targets]
    layers: list[dict[str, Any]] = []
    estimates: list[dict[str, Any]] = []
    for name, module in modules.items():
        progress.stage(f"Estimating {name}")
        counts = count(module, inputs[:1])
        layers += layer_rows("model", name, counts)
        for target in chosen:
            estimates += estimate_rows("model", name, target.name, estimate(counts, target=target))
    monitor = EnergyMonitor(spec.meters or None)
    folder = _folder(study, out, resume=False)
    with sole_writer(writable_folder(folder)), _evaluating(modules.values()):
        run = create_run(folder, study.to_dict(), {})
        with _threads(spec):
            _describe(run, monitor, command, resumed=False)
        run.update(models={"model": {"parameters": _parameters(modules[baseline])}})
        executables = [Executable(n, m, kernels.describe(m)) for n, m in modules.items()]
        with _guarded(run, progress), monitor, _threads(spec):
            run.append("layers", layers)
            run.append("estimates", estimates)
            for item in executables:
                note_kernel(run, item.variant, "model", len(inputs), item.kernel)
            progress.stage(f"Measuring, batch size {len(inputs)}")
            measure(
                run,
                executables,
                inputs,
                model="model",
                device=str(inputs.device),
                spec=spec,
                monitor=monitor,
                progress=progress,
                baseline=baseline,
            )
    return run


def _one_of_several(measure: bool, out: str | os.PathLike[str] | None) -> bool:
    """Whether this process writes; under ``torchrun`` only the first does.

    Raises:
        InputError: several processes were asked to measure, or have no folder in common.
    """
    from ttq_energy.training import this_process

    processes = this_process()
    if processes.size > 1 and measure:
        raise InputError(
            "profile: measures in one process; train with 'torchrun -m ttq_energy train', "
            "then 'ttq-energy profile --resume'"
        )
    if processes.size > 1 and out is None:
        raise InputError("train: several processes need one folder: give --out")
    return processes.writes


# -- the Run's folder and record ------------------------------------------------------------------


def _folder(study: Study, out: str | os.PathLike[str] | None, resume: bool) -> Path:
    if out is not None:
        return user_path(out, "out")
    if not resume:
        return Path("runs") / f"{study.folder_name}-{datetime.now():%Y%m%d-%H%M%S}"
    found = sorted(
        Path("runs").glob(f"{study.folder_name}-*/run.json"), key=lambda p: p.stat().st_mtime
    )
    unfinished = [p.parent for p in found if load_run(p.parent).status != "complete"]
    if not unfinished:
        raise InputError(f"--resume: no unfinished run of '{study.name}' under runs/; give --out")
    return unfinished[-1]


def _check_same_study(run: Run, study: Study) -> None:
    recorded, wanted = run.manifest["study"], study.to_dict()
    for key, value in wanted.items():
        if recorded.get(key) != value:
            raise InputError(
                f"--resume: {run.folder} was begun with another study: '{key}' differs; "
                "give the same study, or another --out"
            )


def _describe(
    run: Run, monitor: EnergyMonitor, command: Sequence[str] | None, resumed: bool
) -> None:
    described = environment.describe(["ttq-energy", *list(command or sys.argv)[1:]])
    if resumed:
        run.add_message("The run was interrupted and resumed.")
    run.update(
        status="running",
        environment=described,
        sensors=[asdict(status) for status in probe_all()],
        meters=[meter.name for meter in monitor.meters],
    )


def _describe_plan(run: Run, plan: Plan) -> None:
    run.update(
        models={
            subject.title: {
                "name": subject.spec.name,
                "parameters": subject.parameters,
                "dataset": subject.data.name if subject.data else None,
                "examples": subject.test_examples,
                "input_shape": list(subject.example(1).shape[1:]),
            }
            for subject in plan.subjects
        },
        variants={
            variant.name: {
                **run.manifest.get("variants", {}).get(variant.name, {}),
                "meaning": variant.meaning,
                "quantizer": variant.quantizer,
                "of": variant.of,
            }
            for variant in plan.variants
        },
        targets={target.name: _target_facts(target) for target in plan.targets},
    )


def _target_facts(target: Target) -> dict[str, Any]:
    """What decides whether an accelerator can use ternary weights, and how its figures are known.

    For the report, which knows no target.
    """
    return {
        "description": target.title,
        "node_nm": target.node_nm,
        "dataflow": target.dataflow,
        "zero_weight": target.zero_weight,
        "zero_activation": target.zero_activation,
        "figures": {
            key: {
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
                "evidence": figure.evidence,
                "source": figure.source,
            }
            for key, figure in target.figures.items()
        },
    }


def _parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


class _guarded:
    """Records how a job ended: well, interrupted or failed; never hides the exception."""

    def __init__(self, run: Run, progress: Progress, success: str = "complete") -> None:
        self._run, self._progress, self._success = run, progress, success
        self._began = time.monotonic()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        self._progress.close()
        if kind is None:
            status = self._success
        elif issubclass(kind, KeyboardInterrupt):
            status = "interrupted"
        else:
            status = "failed"
        # Where the disk is full or the folder gone, what went wrong first is what is told.
        with suppress(InputError) if kind else nullcontext():
            self._record(status)

    def _record(self, status: str) -> None:
        self._run.update(
            status=status,
            finished=datetime.now().astimezone().isoformat(timespec="seconds"),
            job_wall_s=round(
                time.monotonic() - self._began + self._run.manifest.get("job_wall_s", 0.0), 3
            ),
            peak_memory_bytes=_peak_memory_bytes(),
        )


@contextmanager
def _evaluating(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """The user's modules in evaluation mode, and as they were afterwards."""
    modes = {part: part.training for module in modules for part in module.modules()}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def _own_defaults() -> Iterator[None]:
    """torch's defaults, in which a study means the same whatever the caller has set."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.device("cpu"),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        torch.set_default_dtype(before)


class _threads:
    """torch's thread number as the study wants it, and as it was afterwards."""

    def __init__(self, spec: MeasurementSpec | None) -> None:
        self._wanted = spec.threads if spec else None

    def __enter__(self) -> None:
        import torch

        self._before = torch.get_num_threads()
        if self._wanted is not None:
            torch.set_num_threads(self._wanted)

    def __exit__(self, *_: object) -> None:
        import torch

        torch.set_num_threads(self._before)


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
