"""Runs made up for the tests: the files are real, the figures in them are not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ttq_energy.run import Run, create_run

VARIANTS = ("fp32", "int8", "ttq", "ttq-int8", "twn")
RELATIVE = {"fp32": 1.0, "int8": 0.47, "ttq": 0.82, "ttq-int8": 0.41, "twn": 0.83, "bf16": 0.9}
ACCURACY = {"fp32": 0.978, "int8": 0.976, "ttq": 0.971, "ttq-int8": 0.969, "twn": 0.958}
LAYERS = ("conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer3.0.conv1", "fc")
QUANTIZERS: dict[str, Any] = {
    "fp32": None,
    "int8": None,
    "ttq": {"type": "TTQ", "threshold": 0.05},
    "ttq-int8": {"type": "TTQ", "threshold": 0.05},
    "ttq-fixed": {"type": "TTQ", "threshold": 0.05, "learn_scales": False},
    "ttq-symmetric": {"type": "TTQ", "threshold": 0.05, "symmetric": True},
    "twn": {"type": "TWN"},
}
MEANINGS = {
    "fp32": "full precision",
    "int8": "8-bit weights and activations (W8A8)",
    "ttq": "trained ternary, learned Wp and Wn",
    "ttq-int8": "ttq's weights with 8-bit activations",
    "ttq-fixed": "ternary, scales not learned",
    "ttq-symmetric": "ternary, one learned scale a layer",
    "twn": "ternary weight networks (0.7 mean|w|)",
}
OF = {"int8": "fp32", "ttq-int8": "ttq"}
CREATED = "2026-05-04T10:00:00+00:00"
RAPL = {
    "name": "rapl",
    "found": True,
    "readable": True,
    "provenance": "counter",
    "covers": "cpu-package-0, dram-0",
    "reason": "",
    "remedy": "",
    "update_period_s": 0.001,
    "resolution_j": 6.1e-5,
}
RAPL_LOCKED = {
    **RAPL,
    "readable": False,
    "reason": "/sys/class/powercap/intel-rapl:0/energy_uj is readable by root only",
    "remedy": "sudo chmod -R a+r /sys/class/powercap/intel-rapl*",
    "update_period_s": None,
    "resolution_j": None,
}
NVML_ABSENT = {
    "name": "nvml",
    "found": False,
    "readable": False,
    "provenance": "counter",
    "covers": "",
    "reason": "no NVIDIA driver is loaded",
    "remedy": "",
    "update_period_s": None,
    "resolution_j": None,
}
ENVIRONMENT = {
    "machine": {
        "cpu": "Example 9 CPU",
        "cores": 8,
        "memory_bytes": 34359738368,
        "isa": ["avx2", "avx512_vnni"],
        "governor": "performance",
        "power_limit_w": 65.0,
    },
    "gpus": [],
    "os": "Linux 6.1",
    "python": "3.11.2",
    "packages": {"torch": "2.13.0", "numpy": "2.3.1", "ttq-energy": "0.1.0"},
    "threads": 1,
    "command": "ttq-energy profile quickstart",
}


def study(name: str, model: str = "resnet20", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "models": [{"name": model, "label": "", "dataset": {"name": "digits", "options": {}}}],
        "description": "",
        **more,
    }


def begin(
    folder: Path,
    name: str,
    variants: Iterable[str],
    sensors: list[dict[str, Any]] | None = None,
    model: str = "resnet20",
    environment: dict[str, Any] | None = None,
) -> Run:
    """A run with its manifest; the tables follow."""
    run = create_run(folder, study(name, model), environment or ENVIRONMENT)
    run.update(
        created=CREATED,
        models={
            model: {
                "parameters": 272474,
                "dataset": "digits",
                "examples": 360,
                "input_shape": [1, 1, 8, 8],
            }
        },
        variants={
            v: {
                "meaning": MEANINGS[v],
                "quantizer": QUANTIZERS[v],
                "of": OF.get(v, v),
                "kernels": {f"{model}|{b}": kernel(v) for b in (1, 64)},
            }
            for v in variants
        },
    )
    if sensors is not None:
        run.update(sensors=sensors, meters=[s["name"] for s in sensors if s["readable"]])
    return run


def kernel(variant: str) -> str:
    return {
        "fp32": "torch fp32 (oneDNN)",
        "int8": "torch int8 dynamic (x86)",
        "ttq-int8": "ttq-energy int8 packed (avx512) x18",
    }.get(variant, "ttq-energy fp32 packed (avx512) x18")


def train(
    run: Run,
    variants: Iterable[str],
    seeds: Iterable[int] = (0,),
    epochs: int = 8,
    provenance: str = "counter",
    model: str = "resnet20",
) -> None:
    rng = np.random.default_rng(1)
    examples, rows = 360, []
    for variant in variants:
        for seed in seeds:
            top = ACCURACY.get(variant, 0.955) + rng.normal(0, 0.002)
            for epoch in range(1, epochs + 1):
                accuracy = round((top - 0.5 * math.exp(-epoch / 1.6)) * examples) / examples
                low, high = wilson(accuracy, examples)
                energy = 38.0 * (1 + 0.02 * rng.normal())
                ternary = variant not in ("fp32", "int8")
                rows.append(
                    {
                        "model": model,
                        "variant": variant,
                        "seed": seed,
                        "epoch": epoch,
                        "loss": 2.2 * math.exp(-epoch / 2.5) + 0.02,
                        "accuracy": accuracy,
                        "accuracy_low": low,
                        "accuracy_high": high,
                        "examples": examples,
                        "wall_s": 2.1 * (1.3 if ternary else 1.0),
                        "energy_j": energy if provenance else None,
                        "energy_low_j": energy * 0.98 if provenance else None,
                        "energy_high_j": energy * 1.02 if provenance else None,
                        "provenance": provenance,
                        "zero_fraction": 0.31 + 0.01 * epoch if ternary else None,
                        "w_pos": 0.11 + 0.002 * epoch if ternary else None,
                        "w_neg": 0.09 + 0.001 * epoch if ternary else None,
                        "selected": epoch == epochs,
                    }
                )
            run.finish(f"train|{model}|{variant}|{seed}", 2.2 * epochs)
    run.append("training", rows)


def wilson(p: float, n: int) -> tuple[float, float]:
    z = 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def measure(
    run: Run,
    variants: Iterable[str],
    domains: dict[str, float],
    provenance: str = "counter",
    meter: str = "rapl",
    batches: Iterable[int] = (1, 64),
    rounds: int = 6,
    traces: bool = True,
    model: str = "resnet20",
    speed: float = 1.0,
) -> None:
    """Blocks of every variant; ``domains`` gives each domain's power under load in watt."""
    rng = np.random.default_rng(2)
    variants = list(variants)
    for batch in batches:
        rows: list[dict[str, Any]] = []
        trace: list[dict[str, Any]] = []
        block, t = 0, 0.0
        for number in range(rounds):
            for variant in rng.permutation(variants):
                latency = speed * 1.9e-3 * RELATIVE[str(variant)] / batch**0.25
                latency *= 1 + 0.01 * rng.normal()
                inferences = max(batch, int(0.5 / latency / batch) * batch)
                duration = inferences * latency
                throttled = number == 2 and str(variant) == "ttq"
                for domain, power in domains.items():
                    p = power * (1 + 0.015 * rng.normal())
                    energy = p * duration
                    rows.append(
                        {
                            "model": model,
                            "variant": str(variant),
                            "device": "cpu",
                            "batch_size": batch,
                            "round": number,
                            "block": block,
                            "inferences": inferences,
                            "duration_s": duration,
                            "domain": domain,
                            "energy_j": energy,
                            "energy_low_j": energy * 0.995,
                            "energy_high_j": energy * 1.005,
                            "idle_power_w": power * 0.3,
                            "net_energy_j": energy - power * 0.3 * duration,
                            "provenance": provenance,
                            "valid": not throttled,
                            "invalid_reason": "the package throttled" if throttled else "",
                            "kernel": kernel(str(variant)),
                            "meter": meter,
                        }
                    )
                    if traces:
                        for phase, span, level in (("idle", 0.2, 0.3), ("block", duration, 1.0)):
                            start = t if phase == "idle" else t + 0.2
                            trace += [
                                {
                                    "model": model,
                                    "device": "cpu",
                                    "batch_size": batch,
                                    "domain": domain,
                                    "t_s": start + k * span / 4,
                                    "power_w": power * level * (1 + 0.03 * rng.normal()),
                                    "phase": phase,
                                    "variant": str(variant) if phase == "block" else "",
                                    "block": block if phase == "block" else -1,
                                    "provenance": provenance,
                                }
                                for k in range(4)
                            ]
                block += 1
                t += 0.2 + duration
        run.append("measurements", rows)
        if trace:
            run.append("traces", trace)
        run.finish(f"measure|{model}|{batch}", t)
    compare(run, variants, domains, provenance, batches, rounds, model)


def compare(
    run: Run,
    variants: Iterable[str],
    domains: Iterable[str],
    provenance: str,
    batches: Iterable[int],
    rounds: int,
    model: str,
) -> None:
    rows = []
    for batch in batches:
        for variant in variants:
            if variant == "fp32":
                continue
            centre = RELATIVE[variant]
            for domain, quantity in [
                *((d, q) for d in domains for q in ("gross_energy", "net_energy")),
                ("time", "latency"),
            ]:
                low, high = centre * 0.975, centre * 1.025
                verdict = "saves" if high < 1 else "costs" if low > 1 else "undecided"
                rows.append(
                    {
                        "model": model,
                        "device": "cpu",
                        "batch_size": batch,
                        "domain": domain,
                        "baseline": "fp32",
                        "variant": variant,
                        "quantity": quantity,
                        "ratio": centre,
                        "ratio_low": low,
                        "ratio_high": high,
                        "rounds": rounds,
                        "verdict": verdict,
                        "provenance": "timed" if domain == "time" else provenance,
                    }
                )
    run.append("comparisons", rows)


def count(run: Run, variants: Iterable[str], model: str = "resnet20") -> None:
    rows = []
    for variant in variants:
        for index, layer in enumerate(LAYERS):
            inner = 0 < index < len(LAYERS) - 1
            ternary = inner and variant in ("ttq", "ttq-int8", "twn")
            macs = 147456 if inner else 9216
            bits = 2 if ternary else 8 if variant == "int8" else 32
            zeros = 0.39 if ternary else 0.0
            rows.append(
                {
                    "model": model,
                    "variant": variant,
                    "layer": layer,
                    "op": "linear" if layer == "fc" else "conv2d",
                    "macs": macs,
                    "multiplies": 2048 if ternary else macs,
                    "adds": int(macs * (1 - zeros)),
                    "weight_elements": 2304 if inner else 640,
                    "weight_bits": bits,
                    "weight_bytes": (2304 if inner else 640) * bits / 8,
                    "weight_zero_fraction": zeros,
                    "input_elements": 1024,
                    "output_elements": 1024,
                    "activation_bits": 8 if variant in ("int8", "ttq-int8") else 32,
                    "supported": True,
                }
            )
    run.append("layers", rows)
    run.finish(f"count|{model}", 0.2)


def estimate(
    run: Run,
    variants: Iterable[str],
    targets: Iterable[str] = ("generic-45nm", "generic-7nm", "eyeriss-v1"),
    model: str = "resnet20",
) -> None:
    share = {
        "fp32": {"arithmetic": 1.0, "buffer": 1.0, "dram": 1.0},
        "int8": {"arithmetic": 0.07, "buffer": 0.25, "dram": 0.25},
        "ttq": {"arithmetic": 0.2, "buffer": 0.8, "dram": 0.12, "decode": 0.02},
        "ttq-int8": {"arithmetic": 0.01, "buffer": 0.22, "dram": 0.1, "decode": 0.02},
        "twn": {"arithmetic": 0.2, "buffer": 0.8, "dram": 0.12, "decode": 0.02},
    }
    level = {"arithmetic": 4.6e-12 * 147456, "buffer": 2e-7, "dram": 9e-7, "decode": 1e-7}
    spread = {"arithmetic": 1.4, "buffer": 1.3, "dram": 1.6, "decode": 2.0}
    for target in targets:
        scale = {"generic-45nm": 1.0, "generic-7nm": 0.16}.get(target, 0.6)
        rows = [
            {
                "model": model,
                "variant": variant,
                "target": target,
                "layer": layer,
                "component": component,
                "energy_j": scale * level[component] * part,
                "energy_low_j": scale * level[component] * part / spread[component],
                "energy_high_j": scale * level[component] * part * spread[component],
                "latency_s": 2e-5 * scale,
            }
            for variant in variants
            for layer in LAYERS
            for component, part in share[variant].items()
        ]
        run.append("estimates", rows)
        run.finish(f"estimate|{model}|all|{target}", 0.1)


# -- whole runs ----------------------------------------------------------------------------------


def counters_run(folder: Path, name: str = "quickstart", speed: float = 1.0) -> Run:
    """Counters were readable; several seeds, variants, batch sizes and targets."""
    run = begin(folder, name, VARIANTS, [RAPL, NVML_ABSENT])
    train(run, ("fp32", "ttq", "twn"), seeds=(0, 1, 2))
    measure(run, VARIANTS, {"cpu-package-0": 31.0, "dram-0": 2.6}, speed=speed)
    count(run, VARIANTS)
    estimate(run, VARIANTS)
    run.update(
        status="complete",
        peak_memory_bytes=812_000_000,
        messages=["bf16 was left out: this CPU has no bf16 instructions"],
    )
    return run


def modelled_run(folder: Path) -> Run:
    """No sensor was readable: CodeCarbon's model stands in."""
    codecarbon = {
        "name": "codecarbon",
        "found": True,
        "readable": True,
        "provenance": "modelled",
        "covers": "machine, from CPU load",
        "reason": "",
        "remedy": "",
        "update_period_s": 1.0,
        "resolution_j": 0.0,
    }
    run = begin(folder, "quickstart", VARIANTS, [RAPL_LOCKED, NVML_ABSENT, codecarbon])
    train(run, ("fp32", "ttq", "twn"), provenance="modelled")
    measure(
        run, VARIANTS, {"machine": 12.0}, "modelled", "codecarbon", (1,), rounds=4, traces=False
    )
    estimate(run, VARIANTS, ("eyeriss-v1",))
    run.update(status="complete")
    return run


def interrupted_run(folder: Path) -> Run:
    """Stopped after training and one batch size."""
    run = begin(folder, "quickstart", VARIANTS, [RAPL, NVML_ABSENT])
    train(run, ("fp32", "ttq"))
    measure(run, ("fp32", "ttq"), {"cpu-package-0": 31.0}, batches=(1,), rounds=3, traces=False)
    run.update(status="interrupted")
    return run


def estimates_run(folder: Path) -> Run:
    """Nothing was trained or measured."""
    run = begin(folder, "planning", ("fp32", "ttq", "ttq-int8"))
    count(run, ("fp32", "ttq", "ttq-int8"))
    estimate(run, ("fp32", "ttq", "ttq-int8"), ("eyeriss-v1", "generic-7nm"))
    run.update(status="complete")
    return run


def ablation_run(folder: Path) -> Run:
    """Training only, of several ternary quantizers."""
    names = ("fp32", "ttq", "ttq-fixed", "ttq-symmetric", "twn")
    run = begin(folder, "ablation", names)
    train(run, names, seeds=(0, 1, 2), provenance="")
    run.update(status="complete")
    return run
