"""Ternary and binary weights: ``prepare_`` makes them trainable, ``convert`` runs them packed."""

from ttq_energy.quantization.configs import (
    BWN,
    TTQ,
    TWN,
    AbsMean,
    Config,
    DoReFa,
    config_from_dict,
    config_to_dict,
)
from ttq_energy.quantization.convert import convert
from ttq_energy.quantization.layers import (
    QuantizedWeight,
    effective_state_dict,
    quantized_layers,
)
from ttq_energy.quantization.prepare import prepare_
from ttq_energy.quantization.quantizer import Quantizer
from ttq_energy.quantization.summary import LayerSummary, layer_summary

__all__ = [
    "BWN",
    "TTQ",
    "TWN",
    "AbsMean",
    "Config",
    "DoReFa",
    "LayerSummary",
    "QuantizedWeight",
    "Quantizer",
    "config_from_dict",
    "config_to_dict",
    "convert",
    "effective_state_dict",
    "layer_summary",
    "prepare_",
    "quantized_layers",
]
