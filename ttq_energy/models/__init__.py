"""Networks by name, and any nn.Module of the user's."""

from __future__ import annotations

from ttq_energy.models.registry import (
    ModelInfo,
    OptionInfo,
    available,
    build,
    example_input,
    options_of,
)

__all__ = ["ModelInfo", "OptionInfo", "available", "build", "example_input", "options_of"]
