"""Weights as ``.safetensors`` files, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from ttq_energy.errors import InputError, nearest
from ttq_energy.files import atomic_writer
from ttq_energy.quantization.layers import unwrapped


def save_weights(
    path: str | os.PathLike[str], model: nn.Module, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a model's parameters and buffers.

    Args:
        path: the file; its folder must exist.
        model: any module; may stand inside DistributedDataParallel or torch.compile.
        metadata: texts that the file's header keeps.

    Raises:
        InputError: the folder cannot be written.
    """
    # Copies, since tied parameters share memory, which the format has no word for.
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in unwrapped(model).state_dict().items()
    }
    data = save(state, metadata=dict(metadata) if metadata else None)
    with atomic_writer(path, "wb") as stream:
        stream.write(data)


def load_weights(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Read what :func:`save_weights` wrote into a model of the same shape.

    Raises:
        InputError: no such file, not a safetensors file, or weights of another network; the model
            is then unchanged.
    """
    file = Path(path)
    try:
        state = load(file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{file}: no such checkpoint") from None
    except IsADirectoryError:
        raise InputError(f"{file}: is a directory; expected a .safetensors file") from None
    except OSError as error:
        raise InputError(f"{file}: cannot read the checkpoint: {error.strerror}") from None
    except (SafetensorError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file}: not a whole .safetensors file: {reason}") from None
    inner = unwrapped(model)
    _check_fit(file, state, inner.state_dict())
    inner.load_state_dict(state)


def _check_fit(
    file: Path, state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> None:
    for name, value in wanted.items():
        if name not in state:
            close = nearest(name, [n for n in state if n not in wanted])
            hint = f"; the file has '{close}'" if close else ""
            raise InputError(
                f"{file}: does not fit the network: the weight '{name}' is missing{hint}"
            )
        if state[name].shape != value.shape:
            raise InputError(
                f"{file}: does not fit the network: '{name}' has shape "
                f"{tuple(state[name].shape)}, expected {tuple(value.shape)}"
            )
    unknown = [name for name in state if name not in wanted]
    if unknown:
        raise InputError(f"{file}: does not fit the network, which has no weight '{unknown[0]}'")
