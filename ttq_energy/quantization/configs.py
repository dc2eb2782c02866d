"""How weights are quantized: frozen dataclasses that go to JSON and back with a version."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.records import check_record, read_record, setting
from ttq_energy.strict_yaml import Document

CONFIG_VERSION = 1
PER = ("layer", "channel")


class Config:
    """Base of the quantizer configurations; the values are checked when one is made."""

    def __post_init__(self) -> None:
        check_record(self)
        self._check()

    def _check(self) -> None:
        """Rules between fields."""


@dataclass(frozen=True)
class TTQ(Config):
    """Trained Ternary Quantization: Zhu, Han, Mao, Dally, ICLR 2017, arXiv 1612.01064.

    A weight w becomes +Wp where w > D, -Wn where w < -D and 0 between, with D = threshold x max|w|
    (eq. 9). With g the gradient at the quantized weight, the latent weight receives Wp g, g or
    Wn g (eq. 8), Wp the sum of g over the positive and Wn minus the sum of g over the negative
    weights (eq. 7, whose sign for Wn follows from w = -Wn).

    Attributes:
        threshold: D / max|w|; with ``sparsity`` it must keep its default, for only one can set D.
        sparsity: fraction of zeros; D is then that quantile of |w| (the released code's variant).
        learn_scales: False holds Wp and Wn at their initial values.
        symmetric: one scale for both signs, Wn = Wp.
        per: "layer" as published, or "channel": threshold and scales for each output channel.
        initial_scales: "mean" starts Wp and Wn at the mean |w| of the weights they stand for;
            "one" at 1, as the released code does, which only networks with normalization stand.
    """

    threshold: float = setting(0.05, low=0.0, high=1.0)
    sparsity: float | None = setting(None, low=0.0, high=1.0)
    learn_scales: bool = True
    symmetric: bool = False
    per: str = setting("layer", choices=PER)
    initial_scales: str = setting("mean", choices=("mean", "one"))

    def _check(self) -> None:
        if self.sparsity is None and self.threshold >= 1.0:
            raise InputError("TTQ: threshold: must be below 1, or no weight is left, got 1.0")
        if self.sparsity is not None and self.threshold != type(self).threshold:
            raise InputError(
                f"TTQ: threshold {self.threshold:g} and sparsity {self.sparsity:g}: both set which "
                "weights become zero; expected one of them"
            )
        if self.sparsity == 1.0:
            raise InputError("TTQ: sparsity: must be below 1, or no weight is left, got 1.0")


@dataclass(frozen=True)
class TWN(Config):
    """Ternary Weight Networks: Li, Zhang, Liu, arXiv 1605.04711.

    Threshold D = 0.7 x mean|w|; the scale is the mean |w| over |w| > D, both found
    anew at each step (section 2). The gradient passes straight through.

    Attributes:
        per: "layer" as published, or "channel".
    """

    per: str = setting("layer", choices=PER)


@dataclass(frozen=True)
class BWN(Config):
    """Binary-Weight-Networks: Rastegari et al., ECCV 2016, arXiv 1603.05279.

    w becomes a x sign(w), a = mean|w|, with sign(0) = +1. The latent weight receives
    g (1/n + a [|w| <= 1]), n the number of weights that share a scale (section 3.1).

    Attributes:
        per: "channel" (each filter) as published, or "layer".
    """

    per: str = setting("channel", choices=PER)


@dataclass(frozen=True)
class DoReFa(Config):
    """DoReFa-Net's weights: Zhou et al., arXiv 1606.06160, section 2.3.

    One bit: mean|w| x sign(w) over the layer, gradient straight through (eq. 8). k bits:
    2 q(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1 with q rounding to 2^k - 1 steps and the gradient
    straight through q alone (eq. 9). Such weights train and test fake-quantized; they are not
    ternary for k > 1, and ``convert`` refuses them.

    Attributes:
        bits: of a weight, 1 to 8.
    """

    bits: int = setting(1, low=1, high=8)


@dataclass(frozen=True)
class AbsMean(Config):
    """BitNet b1.58's weights: Ma et al., arXiv 2402.17764, eq. 1 to 3.

    With c = mean|w|, w becomes c x clip(round(w / c), -1, 1), rounding half to even; c is at least
    1e-5, as in the authors' published training code. The gradient passes straight through.

    Attributes:
        per: "layer" as published, or "channel".
    """

    per: str = setting("layer", choices=PER)


CONFIGS: dict[str, type[Config]] = {c.__name__: c for c in (TTQ, TWN, BWN, DoReFa, AbsMean)}


def config_to_dict(config: Config) -> dict[str, Any]:
    """Plain data for JSON: ``type``, ``version`` and every field."""
    check_config(config)
    values: dict[str, Any] = dataclasses.asdict(config)  # type: ignore[call-overload]
    return {"type": type(config).__name__, "version": CONFIG_VERSION, **values}


def config_from_dict(mapping: Mapping[str, Any]) -> Config:
    """The configuration that :func:`config_to_dict` wrote, or a study's ``quantizer``.

    Args:
        mapping: ``type`` and any of that type's fields; ``version`` may be left out.

    Raises:
        InputError: an unknown type or field, a wrong value, or a newer version.
    """
    if not isinstance(mapping, Mapping) or "type" not in mapping:
        raise InputError(f"quantizer: expected a mapping with 'type', got {mapping!r}")
    kind = mapping["type"]
    if kind not in CONFIGS:
        raise unknown_name("type", kind, CONFIGS, "quantizer")
    version = mapping.get("version", CONFIG_VERSION)
    if not isinstance(version, int) or not 1 <= version <= CONFIG_VERSION:
        raise InputError(
            f"quantizer: version: expected 1 to {CONFIG_VERSION}, got {version!r}; "
            "a newer ttq-energy may have written it"
        )
    values = {key: value for key, value in mapping.items() if key not in ("type", "version")}
    return read_record(CONFIGS[kind], values, Document(f"quantizer {kind}", values))


def check_config(config: object) -> None:
    if not isinstance(config, Config):
        valid = ", ".join(f"{name}()" for name in CONFIGS)
        hint = f"; did you mean '{config.__name__}()'?" if isinstance(config, type) else ""
        raise InputError(f"config: expected one of {valid}, got {config!r}{hint}")
