"""The state of an unfinished training: everything that its continuation depends on."""

from __future__ import annotations

import dataclasses
import io
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttq_energy.errors import InputError
from ttq_energy.files import atomic_writer
from ttq_energy.training.cost import Cost
from ttq_energy.training.results import EpochRecord

STATE_VERSION = 1


@dataclass
class TrainingState:
    """Where a training stands.

    Attributes:
        settings: what it was begun with; another training cannot continue it.
        model, optimizer: their state dictionaries.
        random: states of torch's generators, by rank.
        epoch: epochs complete.
        batch: batches complete of the next.
        loss_sum: of those batches' examples, or tokens.
        seen: how many there were.
        cost: of those batches.
        records: of the complete epochs.
        best: weights of the best epoch so far, where that is to be reported.
    """

    settings: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    random: list[dict[str, Tensor]]
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    seen: int = 0
    cost: Cost = field(default_factory=Cost)
    records: list[EpochRecord] = field(default_factory=list)
    best: dict[str, Tensor] | None = None


def state_file(checkpoint: Path) -> Path:
    """Where the state of the training lies that will write ``checkpoint``."""
    return checkpoint.with_name(f"{checkpoint.stem}.training-state.pt")


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The generators that dropout and the like draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Put back what :func:`random_state` gave."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def save_state(file: Path, state: TrainingState) -> None:
    """Write the state whole."""
    plain = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    plain["cost"] = dataclasses.asdict(state.cost)
    plain["records"] = [record.to_row() for record in state.records]
    buffer = io.BytesIO()
    torch.save({"version": STATE_VERSION, **plain}, buffer)
    with atomic_writer(file, "wb") as stream:
        stream.write(buffer.getbuffer())


def load_state(file: Path, settings: dict[str, Any]) -> TrainingState | None:
    """Read a state; None where there is none.

    Raises:
        InputError: the file is damaged or belongs to a training with other settings.
    """
    if not file.exists():
        return None
    remedy = "delete it to train from the beginning"
    try:
        plain = torch.load(file, map_location="cpu", weights_only=True)
        version = plain.pop("version")
        if version > STATE_VERSION:
            raise InputError(f"{file}: written by a newer ttq-energy; {remedy}")
        plain["cost"] = Cost(**plain["cost"])
        plain["records"] = [EpochRecord(**row) for row in plain["records"]]
        state = TrainingState(**plain)
    except (
        OSError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file}: not a whole training state ({reason}); {remedy}") from None
    for key, value in settings.items():
        if state.settings.get(key) != value:
            raise InputError(
                f"{file}: begun with another '{key}' ({state.settings.get(key)!r}, now {value!r}); "
                f"{remedy}"
            )
    return state
