"""Forms of a whole network on the GPU, timed in turns; the fastest one is kept and named."""

from __future__ import annotations

import copy
import random
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ttq_energy.errors import unknown_name
from ttq_energy.kernels.gpu.graphs import graphed
from ttq_energy.kernels.modules import TernaryModule
from ttq_energy.kernels.naming import describe

Form = tuple[nn.Module, str]
Build = Callable[[], Form]
TIMED_ROUNDS = 7
TIMED_S = 0.03

PACKED_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class CastNetwork(nn.Module):
    """A network whose activations have one dtype; outputs come back as float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, x: Tensor) -> object:
        """The wrapped network on x in its dtype."""
        y = self.module(x.to(self.dtype) if x.is_floating_point() else x)
        return tree_map(_float32, y)


def _float32(value: object) -> object:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    return value


def with_activations(packed: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a packed network that computes in ``dtype``; ternary scales stay float32."""
    if dtype == torch.float32:
        return packed
    network = copy.deepcopy(packed)
    for part in network.modules():
        if isinstance(part, TernaryModule):
            continue
        for held in (part._parameters, part._buffers):
            for value in held.values():
                if value is not None and value.is_floating_point():
                    value.data = value.data.to(dtype)
    return CastNetwork(network, dtype)


def packed_form(packed: nn.Module, example: Tensor, activations: str) -> Form:
    """The faster of a packed network run as it is and as a CUDA graph.

    Args:
        packed: from ``quantization.convert``, on the GPU.
        example: an input batch on the GPU.
        activations: "fp32", "bf16" or "fp16"; "int8" for a network converted so.

    Returns:
        The module and the name of what runs in it.

    Raises:
        InputError: unknown ``activations``.
    """
    # As in the dense int8 networks that it stands beside, what is not ternary is bfloat16.
    dtypes = {**PACKED_DTYPES, "int8": torch.bfloat16}
    if activations not in dtypes:
        raise unknown_name("activations", activations, dtypes)
    network = with_activations(packed, dtypes[activations]).eval()
    module, how = fastest(
        [lambda: (network, "eager"), lambda: (replayed(network, example), "CUDA graph")], example
    )
    return module, f"{describe(network)} ({how})"


def replayed(module: nn.Module, example: Tensor) -> nn.Module:
    """A module as a CUDA graph whose outputs the next call overwrites, as loops that time want."""
    return graphed(module, example, clone_outputs=False)


def fastest(builds: Sequence[Build], example: Tensor) -> Form:
    """Build each form and keep the one with the least median time, measured in turns.

    A form that cannot be built or run is left out.

    Raises:
        RuntimeError: none runs; its cause is the last failure.
    """
    forms: list[Form] = []
    failure: Exception | None = None

    def synchronize() -> None:
        if example.is_cuda:
            torch.cuda.synchronize(example.device)

    with torch.inference_mode():
        for build in builds:
            try:
                form = build()
                form[0](example)
                synchronize()
            except Exception as error:
                # Compilers and captures fail in many ways; such a form is no candidate.
                if "CUDA error" in str(error):
                    raise
                failure = error
                continue
            forms.append(form)
        if not forms:
            reason = (str(failure).splitlines() or [type(failure).__name__])[0]
            raise RuntimeError(f"no form of this network runs on the GPU: {reason}") from failure
        if len(forms) == 1:
            return forms[0]
        times = interleaved([lambda f=f: f[0](example) for f in forms], synchronize)  # type: ignore[misc]
    medians = [statistics.median(t) for t in times]
    return forms[medians.index(min(medians))]


def interleaved(
    calls: Sequence[Callable[[], object]],
    synchronize: Callable[[], object],
    *,
    rounds: int = TIMED_ROUNDS,
    block_s: float = TIMED_S,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Seconds of one call, for each call and round; the order within a round is random.

    Each measurement repeats the call for about ``block_s``, so that launches overlap as in use.
    """
    repeats = []
    for call in calls:
        begin = clock()
        call()
        synchronize()
        once = max(clock() - begin, 1e-6)
        repeats.append(max(1, round(block_s / once)))
    order = list(range(len(calls)))
    rng = random.Random(seed)
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        rng.shuffle(order)
        for index in order:
            begin = clock()
            for _ in range(repeats[index]):
                calls[index]()
            synchronize()
            times[index].append((clock() - begin) / repeats[index])
    return times
