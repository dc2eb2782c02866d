"""What watches a module: native code that stands in for calling it must leave it alone then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module


def forward_hooks(modules: Iterable[nn.Module]) -> list[Mapping[int, Any]]:
    """The mappings that hold the modules' forward hooks, and those of all modules: empty for none.

    They are torch's own and stay the same, so that looking at them again costs no attribute.
    """
    found: list[Mapping[int, Any]] = [
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
    ]
    for module in modules:
        found += (module._forward_hooks, module._forward_pre_hooks)
    return found


def unobserved(module: nn.Module) -> bool:
    """Whether calling the module does nothing but its class's ``forward``: no hooks, no patches."""
    return not (
        any(forward_hooks([module]))
        or module._backward_hooks
        or module._backward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
        or "forward" in module.__dict__
    )
