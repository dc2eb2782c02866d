"""The training loop: the same from the same seed, however often it is interrupted and resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ttq_energy.errors import InputError
from ttq_energy.progress import Progress
from ttq_energy.quantization import config_to_dict, layer_summary, quantized_layers
from ttq_energy.records import to_plain
from ttq_energy.study import TrainingSpec
from ttq_energy.training import state as states
from ttq_energy.training.cost import Cost, measured, over_hosts
from ttq_energy.training.distributed import Processes, join_processes, this_process
from ttq_energy.training.evaluation import autocast, evaluate, logits_of, loss_of
from ttq_energy.training.optimization import Schedule, effective_spec, make_optimizer, set_rate
from ttq_energy.training.results import EpochRecord, TrainResult, result_of, wilson_interval
from ttq_energy.training.state import TrainingState
from ttq_energy.training.weights import save_weights

if TYPE_CHECKING:
    from ttq_energy.datasets import Data

SAVE_EVERY_S = 300.0
CHECK_EVERY = 20
"""Several processes agree on a save once in so many batches."""
EVALUATION_BATCH = 256
TELL_EVERY_S = 0.2


def train(
    model: nn.Module,
    data: Data,
    spec: TrainingSpec,
    *,
    seed: int = 0,
    checkpoint: Path,
    resume: bool = False,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    monitor: Any = None,
    progress: Progress | None = None,
    fine_tune: bool = False,
    device: torch.device | str | None = None,
    save_every_s: float = SAVE_EVERY_S,
    keep_state: bool = False,
) -> TrainResult:
    """Train a model and write the reported weights to ``checkpoint``.

    The same seed, data, settings and number of threads give the same weights bit for bit on CPU.
    The state of the training lies beside the checkpoint until it is finished; it is written at the
    end of each epoch and every ``save_every_s`` within one, and ``resume`` continues from it to
    the same weights. Under ``torchrun`` the batch is shared among the processes; only the first
    writes, and one process a host measures.

    Args:
        model: trained in place; in the end it holds the reported weights, in evaluation mode.
        data: what to train and test on.
        spec: optimizer, schedule, epochs and the rule for the reported epoch.
        seed: of data order, augmentation and dropout.
        checkpoint: the ``.safetensors`` file to write; its folder must exist.
        resume: continue from the state beside ``checkpoint``, if there is one.
        on_epoch: called with each epoch's record, in the process that writes.
        monitor: a running EnergyMonitor; None records time alone.
        progress: told what happens; silent if None.
        fine_tune: the settings of ``spec.fine_tune`` stand above the others.
        device: where to train; None takes this process's GPU where there is one.
        save_every_s: how often the state is written within an epoch.
        keep_state: leave the state of the finished training, from which ``resume`` gives the same
            result at once; the caller removes it when that is recorded.

    Raises:
        InputError: the state is damaged or another training's, the batch cannot be shared, or the
            loss is no longer a number.
    """
    chosen = effective_spec(spec, fine_tune)
    place = _device(device)
    processes = join_processes(place)
    with _reproducible(place):
        # Deterministic draws, the same for a rank whatever the others do.
        torch.manual_seed(seed * 1_000_003 + processes.rank)
        trainer = _Trainer(
            model.to(place), data, chosen, seed, Path(checkpoint), processes, place, save_every_s
        )
        trainer.keep_state = keep_state
        trainer.monitor = monitor if processes.local_rank == 0 else None
        if processes.writes:
            trainer.progress = progress or Progress()
            trainer.on_epoch = on_epoch
        result = trainer.run(resume)
    return result


class _Trainer:
    """One training: the model, where it stands, and how it goes on."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        spec: TrainingSpec,
        seed: int,
        checkpoint: Path,
        processes: Processes,
        device: torch.device,
        save_every_s: float,
    ) -> None:
        self.model, self.data, self.spec, self.seed = model, data, spec, seed
        self.checkpoint, self.processes, self.device = checkpoint, processes, device
        self.save_every_s, self.keep_state = save_every_s, False
        self.progress, self.monitor = Progress(), None
        self.on_epoch: Callable[[EpochRecord], None] | None = None
        self.optimizer = make_optimizer(model, spec)
        self.batch_size = processes.share(spec.batch_size)
        self.runner = self._runner()
        self.at = TrainingState(self._settings(), {}, {}, [])
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.began_s = self.told_s = time.monotonic()
        self.fraction_before = 0.0

    def run(self, resume: bool) -> TrainResult:
        if resume:
            self._restore()
        at, epochs = self.at, self.spec.epochs
        self.fraction_before = self._fraction()
        while at.epoch < epochs:
            self._train_epoch()
            self._finish_epoch()
        if not at.records:
            self._record(EpochRecord(0, math.nan, *self._accuracy(), 0.0, **self._scales()))
        result = result_of(at.records, self.spec.select)
        if at.best is not None:
            self.model.load_state_dict(at.best)
        self.model.eval()
        if self.processes.writes:
            save_weights(self.checkpoint, self.model, self._metadata(result))
            if not self.keep_state:
                states.state_file(self.checkpoint).unlink(missing_ok=True)
        self.processes.gather(None)
        return result

    # -- one epoch -------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        at = self.at
        whole = self.data.train_loader(
            self.batch_size, self.seed, at.epoch, self.processes.rank, self.processes.size
        )
        schedule = Schedule(self.spec, len(whole))
        rest = self.data.train_loader(
            self.batch_size,
            self.seed,
            at.epoch,
            self.processes.rank,
            self.processes.size,
            start_batch=at.batch,
        )
        batches = iter(rest)
        self.model.train()
        while True:
            with measured(self.monitor, at.cost, self._synchronize):
                done = self._train_span(batches, schedule)
            if done:
                return
            self._save()

    def _train_span(self, batches: Iterator[tuple[Tensor, Tensor]], schedule: Schedule) -> bool:
        """Train on batches until they are over (True) or the state should be written (False)."""
        at, began_s = self.at, time.monotonic()
        for x, y in batches:
            set_rate(self.optimizer, schedule.rate(at.epoch, at.batch))
            self._step(x, y)
            at.batch += 1
            self._tell(schedule.steps)
            if at.batch < schedule.steps and self._due(began_s):
                return False
        return True

    def _step(self, x: Tensor, y: Tensor) -> None:
        x = x.to(self.device, non_blocking=True)
        y = y.to(self.device, non_blocking=True)
        with autocast(self.device, self.spec.precision):
            logits = logits_of(self.runner(x))
        loss = loss_of(logits, y, self.spec.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.spec.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.gradient_clip)
        self.optimizer.step()
        self.loss_sum += loss.detach().double() * y.numel()
        self.at.seen += y.numel()

    def _due(self, began_s: float) -> bool:
        late = time.monotonic() - began_s >= self.save_every_s
        if self.processes.size == 1:
            return late
        if self.at.batch % CHECK_EVERY:
            return False
        return self.processes.total(float(late), device=self.device)[0] > 0

    def _finish_epoch(self) -> None:
        at = self.at
        loss_sum, seen = self.processes.total(
            float(self.loss_sum), float(at.seen), device=self.device
        )
        loss = loss_sum / seen
        if not math.isfinite(loss):
            raise InputError(
                f"training: the loss is {loss} in epoch {at.epoch + 1}: it has diverged; "
                "give a lower training.learning_rate, or a gradient_clip"
            )
        cost = self._cost()
        record = EpochRecord(
            at.epoch + 1,
            loss,
            *self._accuracy(),
            cost.wall_s,
            cost.energy_j,
            cost.energy_low_j,
            cost.energy_high_j,
            cost.provenance,
            **self._scales(),
        )
        best = max((r.accuracy for r in at.records), default=-1.0)
        if self.spec.select == "best" and record.accuracy > best:
            at.best = {n: v.detach().cpu().clone() for n, v in self.model.state_dict().items()}
        at.epoch, at.batch, at.seen, at.cost = at.epoch + 1, 0, 0, Cost()
        self.loss_sum.zero_()
        self._record(record)
        if at.epoch < self.spec.epochs or self.keep_state:
            self._save()

    def _record(self, record: EpochRecord) -> None:
        self.at.records.append(record)
        zeros = "" if record.zero_fraction is None else f", zeros {record.zero_fraction:.0%}"
        self.progress.update(
            f"epoch {record.epoch}/{self.spec.epochs}, loss {record.loss:.4f}, "
            f"accuracy {record.accuracy:.2%}{zeros}{self._time_left()}"
        )
        if self.on_epoch is not None:
            self.on_epoch(record)

    def _accuracy(self) -> tuple[float, float, float, int]:
        """Accuracy on the test set, its interval's ends, and the number of examples."""
        correct, total = evaluate(
            self.model,
            self.data,
            EVALUATION_BATCH,
            precision=self.spec.precision,
            processes=self.processes,
        )
        return correct / max(total, 1), *wilson_interval(correct, total), total

    def _scales(self) -> dict[str, Any]:
        """Zero fraction of all quantized weights; mean Wp and Wn over the layers."""
        layers = layer_summary(self.model)
        if not layers:
            return {}
        elements = sum(layer.elements for layer in layers)
        means = {
            name: sum(getattr(layer, name) for layer in layers) / len(layers)
            for name in ("w_pos", "w_neg")
        }
        zeros = sum(layer.zero_fraction * layer.elements for layer in layers) / elements
        known = {name: None if math.isnan(value) else value for name, value in means.items()}
        return {"zero_fraction": zeros, **known}

    # -- the state -------------------------------------------------------------------------------

    def _cost(self) -> Cost:
        own = self.at.cost if self.processes.local_rank == 0 else None
        return over_hosts(self.processes.gather(own))

    def _save(self) -> None:
        loss_sum, seen = self.processes.total(
            float(self.loss_sum), float(self.at.seen), device=self.device
        )
        random = self.processes.gather(states.random_state(self.device))
        cost = self._cost()
        if self.processes.writes:
            saved = dataclasses.replace(
                self.at,
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                random=random,
                loss_sum=loss_sum,
                seen=int(seen),
                cost=cost,
            )
            states.save_state(states.state_file(self.checkpoint), saved)

    def _restore(self) -> None:
        saved = states.load_state(states.state_file(self.checkpoint), self.at.settings)
        if saved is None:
            return
        self.model.load_state_dict(saved.model)
        self.optimizer.load_state_dict(saved.optimizer)
        states.set_random_state(saved.random[self.processes.rank], self.device)
        if self.processes.rank == 0:
            self.loss_sum.fill_(saved.loss_sum)
        else:
            saved.seen, saved.cost = 0, Cost()
        self.at = saved

    def _settings(self) -> dict[str, Any]:
        quantizers = {
            name: config_to_dict(weight.quantizer.config)
            for name, weight in quantized_layers(self.model).items()
        }
        return {
            "training": json.dumps(to_plain(self.spec), sort_keys=True),
            "seed": self.seed,
            "data set": self.data.name,
            "processes": self.processes.size,
            "quantizer": json.dumps(quantizers, sort_keys=True),
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def _metadata(self, result: TrainResult) -> dict[str, str]:
        settings = {key: str(self.at.settings[key]) for key in ("seed", "data set", "quantizer")}
        return {"epoch": str(result.selected_epoch), "accuracy": str(result.accuracy), **settings}

    # -- what runs and what is told --------------------------------------------------------------

    def _runner(self) -> nn.Module:
        runner = self.model
        if self.processes.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            runner = DistributedDataParallel(runner, device_ids=ids)
        if self.spec.compile:
            runner = torch.compile(runner)  # type: ignore[assignment]
        return runner

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _fraction(self, steps: int = 1) -> float:
        return (self.at.epoch + self.at.batch / steps) / max(self.spec.epochs, 1)

    def _tell(self, steps: int) -> None:
        now_s = time.monotonic()
        if now_s - self.told_s < TELL_EVERY_S:
            return
        self.told_s = now_s
        at = self.at
        last = at.records[-1] if at.records else None
        accuracy = f", accuracy {last.accuracy:.2%}" if last else ""
        zeros = f", zeros {last.zero_fraction:.0%}" if last and last.zero_fraction else ""
        loss = float(self.loss_sum) / max(at.seen, 1)
        self.progress.bar(
            self._fraction(steps),
            f"epoch {at.epoch + 1}/{self.spec.epochs}, loss {loss:.4f}{accuracy}{zeros}"
            f"{self._time_left(steps)}",
        )

    def _time_left(self, steps: int = 1) -> str:
        fraction = self._fraction(steps)
        gained = fraction - self.fraction_before
        if gained <= 0 or fraction >= 1:
            return ""
        left_s = (time.monotonic() - self.began_s) * (1 - fraction) / gained
        return f", {left_s:.0f} s left" if left_s < 120 else f", {left_s / 60:.0f} min left"


def _device(device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", this_process().local_rank)
    return torch.device("cpu")


@contextlib.contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """Random states of their own, and cuDNN without its choices by timing."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
