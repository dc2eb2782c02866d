"""The dense rivals: the best full-precision, bfloat16 and 8-bit forms of a network."""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ttq_energy.errors import InputError
from ttq_energy.kernels.fusion import fold_batch_norms, trace

TIMED_RUNS = 7
TIMED_SECONDS = 0.5


class DenseNetwork(nn.Module):
    """A network in one memory format and dtype; inputs are brought to it, outputs to float32."""

    def __init__(
        self, model: nn.Module, dtype: torch.dtype = torch.float32, channels_last: bool = False
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.channels_last = channels_last
        self.model = model.to(dtype)
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, *inputs: Any) -> Any:
        """The wrapped network's outputs."""
        outputs = self.model(*tree_map(self._prepare, inputs))
        return outputs if self.dtype == torch.float32 else tree_map(_to_float32, outputs)

    def _prepare(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_floating_point() and value.dtype != self.dtype:
            value = value.to(self.dtype)
        if self.channels_last and value.dim() == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        return value


def _to_float32(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    return value


def _arguments(example_input: Any) -> tuple[Any, ...]:
    return example_input if isinstance(example_input, tuple) else (example_input,)


def _folded(model: nn.Module, example_input: Any) -> tuple[nn.Module, bool]:
    """A copy in evaluation mode with batch norms folded where it can be traced and run."""
    has_norm = any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in model.modules())
    graph_module = trace(model) if has_norm else None
    if graph_module is None:
        return copy.deepcopy(model).eval(), False
    try:
        fold_batch_norms(graph_module)
        with torch.inference_mode():
            graph_module(*_arguments(example_input))
    except Exception:
        # A traced graph may not fit the example (control flow on shapes): then do not fold.
        return copy.deepcopy(model).eval(), False
    return graph_module, True


def _fastest(candidates: list[tuple[nn.Module, str]], example_input: Any) -> tuple[nn.Module, str]:
    """The candidate with the least median time over interleaved runs."""
    arguments = _arguments(example_input)
    times: list[list[float]] = [[] for _ in candidates]
    if len(candidates) == 1:
        return candidates[0]
    with torch.inference_mode():
        for module, _ in candidates:
            module(*arguments)
        start = time.perf_counter()
        while len(times[0]) < 3 or (
            len(times[0]) < TIMED_RUNS and time.perf_counter() - start < TIMED_SECONDS
        ):
            for (module, _), record in zip(candidates, times, strict=True):
                before = time.perf_counter()
                module(*arguments)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                record.append(time.perf_counter() - before)
    best = min(range(len(candidates)), key=lambda i: statistics.median(times[i]))
    return candidates[best]


def _convolves(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def _layouts(
    model: nn.Module, example_input: Any, dtype: torch.dtype, label: str
) -> list[tuple[nn.Module, str]]:
    folded, was_folded = _folded(model, example_input)
    suffix = ", batch norm folded" if was_folded else ""
    if not _convolves(folded):
        return [(DenseNetwork(folded, dtype), f"torch {label}{suffix}")]
    return [
        (
            DenseNetwork(copy.deepcopy(folded), dtype, channels_last),
            f"torch {label} ({'channels_last' if channels_last else 'NCHW'}{suffix})",
        )
        for channels_last in (False, True)
    ]


def best_fp32(
    model: nn.Module, example_input: Any, *, compile: bool = False
) -> tuple[nn.Module, str]:
    """The fastest float32 form of a network that torch offers here.

    Batch norms are folded; NCHW and channels_last, recurrent networks with and without oneDNN, and
    with ``compile`` their torch.compile'd forms, are timed on ``example_input`` and the fastest is
    kept.

    Args:
        model: not changed.
        example_input: a tensor, or a tuple of the arguments of ``forward``.
        compile: also try torch.compile (takes a minute or so, and needs a C++ compiler).

    Returns:
        The network in evaluation mode and the name of its kernels.
    """
    candidates = _layouts(model, example_input, torch.float32, "fp32")
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        candidates += [(_WithoutOneDNN(m), f"{n}, without oneDNN") for m, n in list(candidates)]
    if compile:
        candidates += [
            (_Compiled(module), f"{name}, compiled") for module, name in list(candidates)
        ]
    return _fastest(candidates, example_input)


class _WithoutOneDNN(nn.Module):
    """A network whose recurrent layers run on torch's own kernels.

    oneDNN's reorder their weights at every call, which at a step of one token costs several times
    the arithmetic.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Any:
        before = bool(torch.backends.mkldnn.enabled)
        setattr(torch.backends.mkldnn, "enabled", False)  # noqa: B010 - its type is not a bool's
        try:
            return self.model(*inputs)
        finally:
            setattr(torch.backends.mkldnn, "enabled", before)  # noqa: B010


class _Compiled(nn.Module):
    """A network under torch.compile, with the plain one kept reachable as a submodule."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._run: Callable[..., Any] = torch.compile(model)

    def forward(self, *inputs: Any) -> Any:
        return self._run(*inputs)


def bf16(model: nn.Module, example_input: Any) -> tuple[nn.Module, str]:
    """The fastest bfloat16 form: weights and activations in bfloat16, outputs float32.

    Args and returns as in :func:`best_fp32`.
    """
    return _fastest(_layouts(model, example_input, torch.bfloat16, "bf16"), example_input)


def int8(model: nn.Module, example_input: Any, calibration: Any = None) -> tuple[nn.Module, str]:
    """The fastest 8-bit form (weights and activations): real integer kernels of torch.

    Two forms are tried. Static: torch's FX quantization with one scale an activation tensor,
    calibrated on ``calibration``, weights with one scale a channel, where the network can be
    traced. Dynamic: linear and recurrent layers quantize their inputs as they run. The fastest
    that runs is kept; a network with neither kind of layer falls back to bfloat16's sibling,
    plain float32, and its name says so.

    Args:
        model: not changed.
        example_input: a tensor, or a tuple of the arguments of ``forward``; timed.
        calibration: inputs like it whose ranges set the static scales; ``example_input`` if None.

    Returns:
        The network in evaluation mode and the name of its kernels.

    Raises:
        InputError: the network is not on the CPU.
    """
    if any(p.device.type != "cpu" for p in model.parameters()):
        raise InputError("int8: torch has no 8-bit kernels for whole networks off the CPU")
    candidates: list[tuple[nn.Module, str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for build in (_static_int8, _dynamic_int8):
            try:
                network, name = build(model, example_input if calibration is None else calibration)
                with torch.inference_mode():
                    network(*_arguments(example_input))
            except Exception:
                # torch.ao raises many kinds where an operator has no quantized form.
                continue
            candidates.append((network, name))
    if not candidates:
        network, name = best_fp32(model, example_input)
        return network, f"{name}; no layer has an int8 kernel"
    return _fastest(candidates, example_input)


def _engine() -> str:
    engines = torch.backends.quantized.supported_engines
    preferred = ("x86", "onednn", "fbgemm", "qnnpack")
    return next(engine for engine in preferred if engine in engines)


def _static_int8(model: nn.Module, example_input: Any) -> tuple[nn.Module, str]:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    if not _convolves(model):
        raise ValueError("static quantization is for convolutional networks")
    engine = _engine()
    torch.backends.quantized.engine = engine
    arguments = _arguments(example_input)
    mapping = get_default_qconfig_mapping(engine)
    prepared = prepare_fx(copy.deepcopy(model).eval(), mapping, arguments)
    with torch.inference_mode():
        prepared(*arguments)
    return convert_fx(prepared), f"torch int8 static ({engine})"


def _dynamic_int8(model: nn.Module, example_input: Any) -> tuple[nn.Module, str]:
    from torch.ao.quantization import quantize_dynamic

    engine = _engine()
    torch.backends.quantized.engine = engine
    kinds = {nn.Linear, nn.LSTM, nn.GRU}
    if not any(type(module) in kinds for module in model.modules()):
        raise ValueError("no layer has a dynamic int8 kernel")
    network = quantize_dynamic(  # type: ignore[no-untyped-call]
        copy.deepcopy(model).eval(), kinds, torch.qint8
    )
    rest = "; convolutions fp32" if _convolves(network) else ""
    return network, f"torch int8 dynamic ({engine}{rest})"
