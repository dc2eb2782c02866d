"""The variants by name: how each is quantized, from what it is trained, and what runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.study import VariantSpec

BASELINE = "fp32"
"""The full-precision variant, which quantized ones start from and are compared with."""


@dataclass(frozen=True)
class Variant:
    """A resolved variant.

    Attributes:
        name: what tables call it.
        meaning: one line for people.
        quantizer: the quantizer's configuration as a mapping with ``type``; None for none.
        execution: "fp32", "bf16" or "int8" for dense torch kernels; "packed-fp32" or
            "packed-int8" for ternary weights with activations of that precision.
        of: the variant whose checkpoint it runs; its own name where it is trained itself.
        start: "fp32" or "scratch".
        skip: layers kept in full precision; None for the default.
    """

    name: str
    meaning: str
    quantizer: Mapping[str, Any] | None
    execution: str
    of: str
    start: str = "fp32"
    skip: tuple[str, ...] | None = None

    @property
    def trained(self) -> bool:
        """True where it has a checkpoint of its own."""
        return self.of == self.name


def _quantized(name: str, meaning: str, type_: str, **options: Any) -> Variant:
    return Variant(name, meaning, {"type": type_, **options}, "packed-fp32", name)


BUILT_IN: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("fp32", "full precision", None, "fp32", "fp32"),
        Variant("bf16", "weights and activations rounded to bfloat16", None, "bf16", "fp32"),
        Variant("int8", "8-bit weights and activations (W8A8)", None, "int8", "fp32"),
        _quantized("ttq", "trained ternary, learned Wp and Wn", "TTQ"),
        Variant(
            "ttq-int8",
            "ttq's weights with 8-bit activations",
            {"type": "TTQ"},
            "packed-int8",
            "ttq",
        ),
        _quantized("ttq-fixed", "ternary, scales not learned", "TTQ", learn_scales=False),
        _quantized("ttq-symmetric", "ternary, one learned scale a layer", "TTQ", symmetric=True),
        _quantized("twn", "ternary weight networks (0.7 mean|w|)", "TWN"),
        _quantized("bwn", "binary weights, one scale a filter", "BWN"),
        _quantized("dorefa", "DoReFa with 1-bit weights", "DoReFa", bits=1),
    )
}


def resolve(specs: tuple[VariantSpec, ...]) -> list[Variant]:
    """The variants that a study asks for, the full-precision baseline first.

    Raises:
        InputError: an unknown name, or ``of`` naming a variant that is not trained.
    """
    found: dict[str, Variant] = {}
    for spec in specs:
        found[spec.name] = _resolve_one(spec, {s.name: s for s in specs})
    if "fp32" not in found:
        found = {"fp32": BUILT_IN["fp32"], **found}
    for variant in list(found.values()):
        if variant.of not in found:
            found[variant.of] = _trainable(variant.of)
    order = {"fp32": 0}
    return sorted(found.values(), key=lambda v: order.get(v.name, 1))


def _trainable(name: str) -> Variant:
    if name not in BUILT_IN or not BUILT_IN[name].trained:
        trainable = [v.name for v in BUILT_IN.values() if v.trained]
        raise unknown_name("variant", name, trainable, "variants: of")
    return BUILT_IN[name]


def _resolve_one(spec: VariantSpec, specs: Mapping[str, VariantSpec]) -> Variant:
    built_in = BUILT_IN.get(spec.name)
    if built_in is not None:
        _refuse_redefined(spec, built_in)
    if spec.of is not None:
        _refuse_settings_of_another(spec, spec.of)
        source = specs.get(spec.of)
        base = _resolve_one(source, {}) if source and source.of is None else _trainable(spec.of)
        if not base.trained:
            raise InputError(f"variants: '{spec.name}': '{spec.of}' has no checkpoint of its own")
        activations = spec.activations or ("int8" if base.quantizer is None else "fp32")
        return Variant(
            spec.name,
            f"{spec.of}'s weights with {activations} activations",
            base.quantizer,
            f"packed-{activations}" if base.quantizer else activations,
            spec.of,
            base.start,
            base.skip,
        )
    if spec.quantizer is None:
        if built_in is None:
            raise unknown_name("variant", spec.name, BUILT_IN, "variants")
        execution = built_in.execution
        if spec.activations and built_in.quantizer:
            execution = f"packed-{spec.activations}"
        return Variant(
            spec.name,
            built_in.meaning,
            built_in.quantizer,
            execution,
            built_in.of,
            spec.start,
            spec.skip,
        )
    quantizer = dict(spec.quantizer)
    kind = str(quantizer.get("type", "?"))
    details = ", ".join(f"{k}={v}" for k, v in quantizer.items() if k != "type")
    return Variant(
        spec.name,
        f"{kind}({details})",
        quantizer,
        f"packed-{spec.activations or 'fp32'}",
        spec.name,
        spec.start,
        spec.skip,
    )


def _refuse_redefined(spec: VariantSpec, built_in: Variant) -> None:
    """A built-in name always means what tables and reports say that it means."""
    where = f"variants: '{spec.name}'"
    if spec.of is not None and (built_in.trained or built_in.quantizer is None):
        raise InputError(
            f"{where}: is built in and runs {built_in.of}'s weights; give another name"
        )
    executed = "fp32" if spec.of is not None else None
    if not built_in.trained and (spec.activations or executed or "int8") != "int8":
        raise InputError(f"{where}: is built in with activations int8; give another name")
    if built_in.quantizer is None:
        given = [
            key for key in ("quantizer", "activations", "skip") if getattr(spec, key) is not None
        ]
        if given:
            raise InputError(
                f"{where}: is built in ({built_in.meaning}) and takes no {given[0]}; "
                "give another name"
            )
        return
    if spec.quantizer is not None and spec.quantizer.get("type") != built_in.quantizer["type"]:
        raise InputError(
            f"{where}: is built in with the quantizer {built_in.quantizer['type']}; "
            "give another name"
        )
    if not built_in.trained and spec.of is None:
        _refuse_settings_of_another(spec, built_in.of)


def _refuse_settings_of_another(spec: VariantSpec, source: str) -> None:
    """What decides the weights is said where they are trained, or it would be passed over."""
    given = [key for key in ("quantizer", "skip") if getattr(spec, key) is not None]
    given += ["start"] if spec.start != BASELINE else []
    if given:
        raise InputError(
            f"variants: '{spec.name}': runs the weights of '{source}', so {given[0]} goes there"
        )
