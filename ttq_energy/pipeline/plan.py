"""Everything a study names, found and checked before anything is written or trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ttq_energy import datasets, models, variants
from ttq_energy.energy_model import targets
from ttq_energy.errors import InputError
from ttq_energy.measurement import EnergyMonitor
from ttq_energy.quantization import config_from_dict
from ttq_energy.quantization.prepare import chosen_weights
from ttq_energy.run import checkpoint_name
from ttq_energy.study import ModelSpec, Study
from ttq_energy.variants import Variant

if TYPE_CHECKING:
    import torch

    from ttq_energy.datasets import Data
    from ttq_energy.energy_model.targets import Target


CALIBRATION_EXAMPLES = 256


@dataclass(frozen=True)
class Subject:
    """One network of the study and the data that it is trained and measured on.

    Attributes:
        spec: of the study.
        data: None where there is no data set.
        parameters: how many the full-precision network has.
    """

    spec: ModelSpec
    data: Data | None
    parameters: int = 0

    @property
    def title(self) -> str:
        return self.spec.title

    @property
    def test_examples(self) -> int | None:
        """Size of the test set, where it is known."""
        test = self.data.test if self.data is not None else None
        return len(test) if isinstance(test, Sized) else None

    def build(self, seed: int) -> torch.nn.Module:
        """A fresh full-precision network, the same for the same seed."""
        import torch

        torch.manual_seed(seed)
        return models.build(self.spec.name, **self.spec.options)

    def example(self, batch_size: int) -> torch.Tensor:
        """An input batch: real examples where there is a data set, random ones elsewhere."""
        if self.data is not None:
            return self.data.example(batch_size)
        return models.example_input(self.spec.name, batch_size, **self.spec.options)

    def calibration(self) -> torch.Tensor | None:
        """A batch of training examples that sets int8's scales; None without a data set."""
        if self.data is None:
            return None
        inputs, _ = next(iter(self.data.train_loader(CALIBRATION_EXAMPLES, seed=0)))
        return inputs


@dataclass(frozen=True)
class Plan:
    """A study with its names resolved."""

    study: Study
    subjects: tuple[Subject, ...]
    variants: tuple[Variant, ...]
    targets: tuple[Target, ...]
    device: str

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        return next(variant for variant in self.variants if variant.name == name)

    def monitor(self) -> EnergyMonitor:
        """The meters that the study asks for, or those found on this machine.

        Raises:
            SensorError: a meter asked for by name is absent or unreadable.
        """
        names: Sequence[str] = self.study.measurement.meters if self.study.measurement else ()
        return EnergyMonitor(names or None)


def make_plan(study: Study) -> Plan:
    """Resolve every name in a study.

    Raises:
        InputError: an unknown or unusable name, file or device.
    """
    resolved = tuple(variants.resolve(study.variants))
    for variant in resolved:
        if variant.quantizer is not None:
            config_from_dict(variant.quantizer)
    _refuse_shared_checkpoints(study, resolved)
    found_targets = tuple(targets.load(name) for name in study.targets)
    device = _check_device(study.measurement.device if study.measurement else "cpu")
    subjects = tuple(_subject(spec, study, resolved) for spec in study.models)
    return Plan(study, subjects, resolved, found_targets, device)


def _refuse_shared_checkpoints(study: Study, resolved: Sequence[Variant]) -> None:
    """Refuse names that differ only in what the names of files cannot show."""
    seen: dict[str, str] = {}
    for model in study.models:
        for variant in resolved:
            name = f"'{model.title}' as '{variant.name}'"
            # Some file systems hold upper and lower case for the same.
            other = seen.setdefault(checkpoint_name(model.title, variant.name).casefold(), name)
            if other != name:
                raise InputError(
                    f"models: {other} and {name} would share one file of weights; "
                    "give one of them another label or name"
                )


def _subject(spec: ModelSpec, study: Study, resolved: Sequence[Variant]) -> Subject:
    data = datasets.load(spec.dataset.name, **spec.dataset.options) if spec.dataset else None
    subject = Subject(spec, data)
    model = _by_shape(subject) if spec.checkpoint is None else None
    if model is None:
        model = subject.build(seed=0)
        if spec.checkpoint_file is not None:
            from ttq_energy.training import load_weights

            load_weights(spec.checkpoint_file, model)
        _check_fit(subject, model)
    _check_layers(model, subject, study, resolved)
    return replace(subject, parameters=_count(model))


def _check_layers(
    model: torch.nn.Module, subject: Subject, study: Study, resolved: Sequence[Variant]
) -> None:
    """Find now, and not after hours of training, that a study names a layer wrongly."""
    from ttq_energy.training.optimization import make_optimizer

    for variant in resolved:
        if variant.quantizer is None or not variant.trained:
            continue
        with _blamed_on(f"models: '{subject.title}': variant '{variant.name}'"):
            config = config_from_dict(variant.quantizer)
            example = subject.example(1).to(_device_of(model))
            with warnings.catch_warnings(action="ignore"):
                chosen_weights(model, config, skip=variant.skip, example_input=example)
    if study.training is not None and study.training.parameter_groups:
        with _blamed_on(f"models: '{subject.title}'"):
            make_optimizer(model, study.training)


@contextmanager
def _blamed_on(where: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _device_of(model: torch.nn.Module) -> str:
    first = next(model.parameters(), None)
    return "cpu" if first is None else str(first.device)


def _by_shape(subject: Subject) -> torch.nn.Module | None:
    """A network that takes its examples, as shapes without weights; None if it is not so.

    Weights of a billion numbers take ten seconds to draw, which a check need not spend.
    """
    import torch

    example = subject.example(1).to("meta")
    try:
        with torch.inference_mode(), torch.device("meta"):
            model = models.build(subject.spec.name, **subject.spec.options)
            model.eval()(example)
    except InputError:
        raise
    except Exception:
        return None  # it cannot run so, or is wrong: the true network tells
    return model


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _check_fit(subject: Subject, model: torch.nn.Module) -> None:
    """One forward pass, so that a network that does not fit its data is told at once."""
    import torch

    try:
        with torch.inference_mode():
            model.eval()(subject.example(1))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        where = f"data set '{subject.data.name}'" if subject.data else "its example input"
        reason = str(error).splitlines()[0]
        raise InputError(
            f"models: '{subject.title}' does not take the examples of {where}: {reason}"
        ) from None


def _check_device(device: str) -> str:
    import torch

    kind, colon, number = device.partition(":")
    if device == "cpu":
        return device
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise InputError(f"measurement.device: unknown device '{device}'; valid: cpu, cuda, cuda:N")
    if not torch.cuda.is_available():
        raise InputError(f"measurement.device: '{device}' asked for, but torch finds no CUDA GPU")
    if int(number or 0) >= torch.cuda.device_count():
        raise InputError(
            f"measurement.device: '{device}' asked for, but torch finds {torch.cuda.device_count()}"
        )
    return device
