"""Step time of quantized training over full precision, forward and backward, interleaved.

Each round times one step of every network in random order in this one process; a ratio is the
median over rounds of variant / fp32 of the same round, with the 95 % interval of the median from
order statistics. Weights are set anew before each step, as an optimizer would.

    python benchmarks/training.py [--threads N] [--rounds N] [--batch-size N]
"""

from __future__ import annotations

import argparse
import random
import time

import torch
from scipy import stats

import ttq_energy as te
from ttq_energy import models

CONFIGS = {
    "ttq": te.TTQ(),
    "ttq sparsity 0.5": te.TTQ(sparsity=0.5),
    "twn": te.TWN(),
    "bwn": te.BWN(),
    "dorefa": te.DoReFa(),
    "absmean": te.AbsMean(),
}


def step_s(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Seconds of one forward and backward pass with weights not quantized yet."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0)
            parameter.grad = None
    began_s = time.perf_counter()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    return time.perf_counter() - began_s


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Median and its distribution-free 95 % interval (order statistics, binomial)."""
    ordered = sorted(values)
    n = len(ordered)
    low = int(stats.binom.ppf(0.025, n, 0.5))
    return ordered[n // 2], ordered[max(low - 1, 0)], ordered[min(n - low, n - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    x = torch.randn(options.batch_size, 3, 32, 32)
    y = torch.randint(10, (options.batch_size,))
    networks = {"fp32": models.build("resnet20")}
    for name, config in CONFIGS.items():
        networks[name] = te.prepare_(models.build("resnet20"), config)
    for network in networks.values():
        step_s(network, x, y)

    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(options.rounds):
        for name in order.sample(list(networks), len(networks)):
            times[name].append(step_s(networks[name], x, y))

    print(f"resnet20, 32 x 32, batch {options.batch_size}, {options.threads} threads")
    print(f"fp32 step: {sorted(times['fp32'])[options.rounds // 2] * 1e3:.1f} ms (median)")
    for name in CONFIGS:
        ratios = [v / b for v, b in zip(times[name], times["fp32"], strict=True)]
        middle, low, high = median_interval(ratios)
        print(f"{name:18s} {middle:.3f} [{low:.3f}, {high:.3f}] of fp32")


if __name__ == "__main__":
    main()
