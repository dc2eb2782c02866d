"""Training: the loop, its checkpoints, evaluation, and the ablation's summary."""

from ttq_energy.training.distributed import Processes, this_process
from ttq_energy.training.evaluation import evaluate
from ttq_energy.training.loop import train
from ttq_energy.training.results import EpochRecord, TrainResult, wilson_interval
from ttq_energy.training.state import state_file
from ttq_energy.training.weights import load_weights, save_weights

__all__ = [
    "EpochRecord",
    "Processes",
    "TrainResult",
    "evaluate",
    "load_weights",
    "save_weights",
    "state_file",
    "this_process",
    "train",
    "wilson_interval",
]
