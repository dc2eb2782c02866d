"""Networks by name, and any nn.Module of the user's."""

from __future__ import annotations

from ttq_energy.models.registry import (
    ModelInfo,
    available,
    build,
    example_input,
    option_fields,
)

__all__ = ["ModelInfo", "available", "build", "example_input", "option_fields"]
