"""The networks of a study with their weights: built once, shared, and kept while memory allows."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from ttq_energy import training
from ttq_energy.kernels import gpu
from ttq_energy.pipeline.plan import Plan, Subject
from ttq_energy.quantization import config_from_dict, convert, prepare_
from ttq_energy.run import Run
from ttq_energy.variants import BASELINE, Variant

if TYPE_CHECKING:
    import torch

KEPT_SHARE = 0.25
"""Of the machine's memory, for networks that are kept; the latest one is kept in any case."""
PACKED = "packed-"
"""What begins the ``execution`` of variants on packed kernels."""


class Networks:
    """Makes the networks of a study and keeps the latest of them.

    What it gives is shared: neither changed by its users nor kept by them longer than needed.

    Args:
        plan: the study.
        run: where checkpoints lie.
        kept_bytes: most that is kept; None takes a quarter of the machine's memory.
    """

    def __init__(self, plan: Plan, run: Run, kept_bytes: int | None = None) -> None:
        self.plan, self.run = plan, run
        self.kept_bytes = kept_bytes or int(KEPT_SHARE * psutil.virtual_memory().total)
        self._kept: OrderedDict[tuple[object, ...], torch.nn.Module] = OrderedDict()

    def random_weights(self, subject: Subject) -> bool:
        """Whether a network is neither trained nor given weights.

        Its weights follow from the seed and are not saved.
        """
        untrained = self.plan.study.training is None or subject.data is None
        return untrained and subject.spec.checkpoint is None

    def fresh(self, subject: Subject, variant: Variant, seed: int) -> torch.nn.Module:
        """A network of its own as ``variant`` trains it, with the weights that it starts from."""
        if variant.name == BASELINE or variant.start != BASELINE:
            model = copy.deepcopy(self._dense(subject, seed))
            file = subject.spec.checkpoint_file
            if variant.name == BASELINE and file is not None:
                training.load_weights(file, model)
        else:
            start = self.plan.variant(BASELINE)
            model = copy.deepcopy(self.trained(subject, start, seed))
        _quantize_(model, subject, variant)
        return model.train()

    def trained(self, subject: Subject, variant: Variant, seed: int) -> torch.nn.Module:
        """The network with the reported weights of ``variant``, in evaluation mode."""

        def make() -> torch.nn.Module:
            if self.random_weights(subject) and variant.quantizer is None:
                return self._dense(subject, seed).eval()
            model = copy.deepcopy(self._dense(subject, seed))
            _quantize_(model, subject, variant)
            if not self.random_weights(subject):
                training.load_weights(self.run.checkpoint(subject.title, variant.of, seed), model)
            return model.eval()

        return self._keep(("trained", subject.title, variant.of, seed), make)

    def runnable(
        self, subject: Subject, variant: Variant, seed: int, device: str
    ) -> torch.nn.Module:
        """The network on a device: on packed kernels where the variant is quantized, else dense.

        Raises:
            InputError: the variant's weights cannot run on packed kernels (not ternary).
        """
        packing = _packing(variant, device)

        def make() -> torch.nn.Module:
            model = self.trained(subject, variant, seed)
            if packing is None:
                return copy.deepcopy(model).to(device)
            packed = convert(model, activations=packing, example_input=subject.example(1))
            return packed.to(device).eval()

        if packing is None and device == "cpu":
            return self.trained(subject, variant, seed)
        key = ("runnable", subject.title, variant.of, seed, packing, device)
        return self._keep(key, make)

    def forget(self) -> None:
        """Let go of everything that is kept."""
        self._kept.clear()

    def _dense(self, subject: Subject, seed: int) -> torch.nn.Module:
        return self._keep(("built", subject.title, seed), lambda: subject.build(seed))

    def _keep(
        self, key: tuple[object, ...], make: Callable[[], torch.nn.Module]
    ) -> torch.nn.Module:
        model = self._kept.get(key)
        if model is None:
            model = self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and self._bytes() > self.kept_bytes:
            self._kept.popitem(last=False)
        return model

    def _bytes(self) -> int:
        """Memory of all that is kept; tensors that networks share count once."""
        tensors = {
            tensor.data_ptr(): tensor.numel() * tensor.element_size()
            for model in self._kept.values()
            for tensor in (*model.parameters(), *model.buffers())
        }
        return sum(tensors.values())


def _packing(variant: Variant, device: str) -> str | None:
    """``convert``'s activations; None for dense networks.

    The GPU's kernels take half types as they come, in a network that is packed for floats.
    """
    if not variant.execution.startswith(PACKED):
        return None
    activations = variant.execution.removeprefix(PACKED)
    half = activations in ("bf16", "fp16") and device.startswith("cuda") and gpu.usable()
    return "fp32" if half else activations


def _quantize_(model: torch.nn.Module, subject: Subject, variant: Variant) -> None:
    """Put the variant's quantizers on a model, in place; none for a dense variant."""
    if variant.quantizer is not None:
        prepare_(
            model,
            config_from_dict(variant.quantizer),
            skip=variant.skip,
            example_input=subject.example(1),
        )
