"""The largest run one is likely to have, made up: six networks, ten variants, hours of power.

Nothing in it was measured, and its record says so (``simulated``): every page made from it does
too. The comparisons are made from its blocks by the package's own code. By hand:

    PYTHONPATH=. python tests/reporting/large.py FOLDER
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ttq_energy.measurement import compare_measurements
from ttq_energy.run import Run, create_run

SIMULATED = "sensors of a server that does not exist: two CPU packages, their DRAM and two GPUs"
ENERGY = {
    "fp32": 1.0, "bf16": 0.93, "int8": 0.52, "ttq": 0.86, "ttq-int8": 0.44, "ttq-fixed": 0.861,
    "ttq-symmetric": 0.83, "twn": 0.84, "bwn": 1.13, "dorefa": 1.01,
}  # fmt: skip
QUANTIZERS: dict[str, Any] = {
    "ttq": {"type": "TTQ", "threshold": 0.05},
    "ttq-int8": {"type": "TTQ", "threshold": 0.05},
    "ttq-fixed": {"type": "TTQ", "threshold": 0.05, "learn_scales": False},
    "ttq-symmetric": {"type": "TTQ", "threshold": 0.05, "symmetric": True},
    "twn": {"type": "TWN"},
    "bwn": {"type": "BWN"},
    "dorefa": {"type": "DoReFa", "bits": 1},
}
TARGETS = (
    "a100-like", "braintta", "cortex-m", "eie", "eyeriss-v1", "fpga-ternary", "generic-45nm",
    "generic-7nm", "h100-like", "server-cpu-core", "tim-dnn-like", "tpu-v1-like", "unpu",
)  # fmt: skip
COMPONENTS = {"arithmetic": 0.35, "buffer": 0.2, "dram": 0.4, "static": 0.05}
DOMAINS = {"cpu-package-0": 118.0, "cpu-package-1": 96.0, "dram-0": 14.0, "dram-1": 11.0}
GPUS = {"gpu-0": 233.0, "gpu-1": 61.0}
TRAINED = tuple(v for v in ENERGY if v not in ("int8", "bf16", "ttq-int8"))


def _resnet(blocks: int) -> list[str]:
    inner = [f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in range(blocks) for c in (1, 2)]
    return ["conv1", *inner, "fc"]


def _encoder(name: str, depth: int, parts: tuple[str, ...]) -> list[str]:
    return [f"{name}.{index}.{part}" for index in range(depth) for part in parts]


_ATTENTION = ("self_attention.in_proj", "self_attention.scores", "self_attention.out_proj",
              "feed_forward.expand", "feed_forward.contract")  # fmt: skip
MODELS: dict[str, list[str]] = {
    "resnet20": _resnet(3),
    "resnet32": _resnet(5),
    "lstm": ["embedding", "lstm.layer0", "lstm.layer1", "decoder"],
    "vit": ["patch_embedding", *_encoder("encoder.layers", 12, _ATTENTION), "head"],
    "transformer-lm": ["embedding", *_encoder("decoder.blocks", 8, _ATTENTION), "unembedding"],
    "alexnet": [f"features.conv{n}" for n in (1, 2, 3, 4, 5)] + [f"fc{n}" for n in (6, 7, 8)],
}  # fmt: skip


def large_run(
    folder: Path,
    models: tuple[str, ...] = tuple(MODELS),
    batches: tuple[int, ...] = (1, 8, 32, 128, 256),
    rounds: int = 8,
    targets: tuple[str, ...] = TARGETS,
) -> Run:
    """Write the run; every table through :meth:`Run.append`."""
    rng = np.random.default_rng(20)
    run = _begin(folder, models, batches, rounds)
    run.append("training", list(_training(models, rng)))
    for model in models:
        for device in ("cpu", "cuda:0") if model in ("resnet20", "vit", "alexnet") else ("cpu",):
            for batch in batches:
                rows, trace = _blocks(model, device, batch, rounds, rng)
                run.append("measurements", rows)
                run.append("traces", trace)
                run.finish(f"measure|{model}|{batch}", trace[-1]["t_s"])
    run.append("comparisons", compare_measurements(run.measurements))
    run.append("layers", [row for model in models for row in _layers(model)])
    run.append("estimates", [row for m in models for t in targets for row in _estimates(m, t)])
    run.update(status="complete", peak_memory_bytes=9_412_000_000)
    return run


def _begin(folder: Path, models: tuple[str, ...], batches: tuple[int, ...], rounds: int) -> Run:
    study = {
        "name": "all networks, all variants",
        "models": [{"name": name, "dataset": {"name": "cifar10"}} for name in models],
        "variants": [{"name": name, "start": "fp32"} for name in ENERGY],
        "seeds": [0, 1, 2, 3, 4],
        "measurement": {"batch_sizes": list(batches), "rounds": rounds},
        "targets": list(TARGETS),
    }
    environment = {
        "command": ["ttq-energy", "profile", "everything.yaml", "--out", "runs/everything"],
        "python": "3.11.2",
        "os": "Linux 6.8",
        "machine": {
            "cpu_model": "Example Xeon, simulated", "sockets": 2, "physical_cores": 64,
            "caches": [{"level": 3, "kind": "unified", "bytes": 62914560}],
            "isa": ["avx2", "avx512f", "avx512_vnni", "amx_int8"], "memory_bytes": 549755813888,
            "governor": "performance", "power_limit_w": 350.0,
        },
        "gpus": [
            {"name": f"Example GPU, simulated, {n}", "driver": "0.0", "memory_bytes": 85899345920,
             "power_limit_w": 400.0} for n in (0, 1)
        ],
        "packages": {"torch": "2.13.0", "numpy": "2.3.1", "ttq-energy": "0.1.0"},
    }  # fmt: skip
    run = create_run(folder, study, environment)
    run.update(
        created="2026-05-04T10:00:00+00:00",
        simulated=SIMULATED,
        models={m: {"parameters": 9000 * len(MODELS[m]), "dataset": "cifar10", "examples": 10000,
                    "input_shape": [3, 32, 32]} for m in models},
        variants={v: {"meaning": "", "quantizer": QUANTIZERS.get(v),
                      "of": {"int8": "fp32", "bf16": "fp32", "ttq-int8": "ttq"}.get(v, v),
                      "kernels": {f"{m}|{b}": _kernel(v) for m in models for b in batches}}
                  for v in ENERGY},
        sensors=[
            {"name": name, "found": True, "readable": True, "provenance": how, "covers": covers,
             "reason": "", "remedy": "", "update_period_s": period, "resolution_j": step}
            for name, how, covers, period, step in (
                ("rapl", "counter", ", ".join(DOMAINS), 0.001, 6.1e-5),
                ("nvml", "integrated", ", ".join(GPUS), 0.1, 0.0),
            )
        ],
        meters=["rapl", "nvml"],
        messages=["dorefa on transformer-lm could not be run: an operator is not supported",
                  *(f"{m}, batch size 256: 3 blocks were left out: clocks moved" for m in models)],
    )  # fmt: skip
    return run


def _kernel(variant: str) -> str:
    if variant in ("fp32", "bf16"):
        return f"torch {variant} (channels_last, batch norm folded)"
    if variant == "int8":
        return "torch int8 static (x86)"
    width = "int8" if variant.endswith("int8") else "fp32"
    return f"ttq-energy {width} packed (avx512) x18 + torch float32 conv x1 + torch linear x1"


def _wilson(p: float, n: int) -> tuple[float, float]:
    z = 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def _training(models: tuple[str, ...], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for place, model in enumerate(models):
        for rank, variant in enumerate(TRAINED):
            for seed in range(5):
                top = 0.92 - 0.06 * place - 0.004 * rank + 0.003 * rng.normal()
                for epoch in range(1, 21):
                    right = top - 0.4 * math.exp(-epoch / 4)
                    low, high = _wilson(right, 10000)
                    energy = 9e3 * (1 + place) * (1.2 if rank else 1.0) * (1 + 0.02 * rng.normal())
                    yield {
                        "model": model, "variant": variant, "seed": seed, "epoch": epoch,
                        "loss": 2.0 * math.exp(-epoch / 6) + 0.05, "accuracy": right,
                        "accuracy_low": low, "accuracy_high": high, "examples": 10000,
                        "wall_s": 40.0 * (1 + place) * (1.2 if rank else 1.0), "energy_j": energy,
                        "energy_low_j": 0.98 * energy, "energy_high_j": 1.02 * energy,
                        "provenance": "counter", "selected": epoch == 20,
                        "zero_fraction": 0.4 if rank else None, "w_pos": 0.1 if rank else None,
                        "w_neg": 0.09 if rank else None,
                    }  # fmt: skip


def _domains(device: str) -> dict[str, tuple[float, str]]:
    found = {
        name: (watt * (1.0 if device == "cpu" else 0.4), "counter")
        for name, watt in DOMAINS.items()
    }
    found["total"] = (sum(watt for watt, _ in found.values()), "counter")
    if device != "cpu":
        found |= {name: (watt, "integrated") for name, watt in GPUS.items()}
    return found  # fmt: skip


def _blocks(
    model: str, device: str, batch: int, rounds: int, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    trace: list[dict[str, Any]] = []
    base = 2e-3 * (1 + list(MODELS).index(model)) / batch**0.6 / (1 if device == "cpu" else 9)
    names = [v for v in ENERGY if (model, v) != ("transformer-lm", "dorefa")]
    domains = _domains(device)
    gain = {v: ENERGY[v] ** (1.0 if batch < 100 else 0.4) for v in names}
    block, t = 0, 0.0
    head = {"model": model, "device": device, "batch_size": batch}
    for number in range(rounds):
        for variant in rng.permutation(names):
            each = base * gain[str(variant)] * (1 + 0.02 * rng.normal())
            inferences = max(batch, round(10.0 / each / batch) * batch)
            duration = inferences * each
            why = {37: "clocks moved by 14 %", 38: "another load ran", 55: "the package throttled"}
            reason = why.get(block, "") if batch == 256 or block == 55 else ""
            for domain, (watt, how) in domains.items():
                energy = watt * duration * (1 + 0.015 * rng.normal())
                idle = 0.35 * watt
                rows.append({
                    **head, "variant": str(variant), "round": number, "block": block,
                    "inferences": inferences, "duration_s": duration, "domain": domain,
                    "energy_j": energy, "energy_low_j": 0.99 * energy,
                    "energy_high_j": 1.01 * energy,
                    "idle_power_w": idle, "idle_power_low_w": 0.98 * idle,
                    "idle_power_high_w": 1.02 * idle, "net_energy_j": energy - idle * duration,
                    "provenance": how, "valid": not reason, "invalid_reason": reason,
                    "kernel": _kernel(str(variant)),
                    "meter": "rapl" if how == "counter" else "nvml",
                })  # fmt: skip
                for phase, start, span, level in (
                    ("idle", t, 2.0, 0.35),
                    ("block", t + 2, duration, 1.0),
                ):
                    trace += [
                        {
                            **head, "domain": domain, "t_s": start + step, "phase": phase,
                            "power_w": watt * level * (1 + 0.04 * rng.normal()),
                            "variant": str(variant) if phase == "block" else "",
                            "block": block if phase == "block" else -1, "provenance": how,
                        }
                        for step in range(max(1, int(span)))
                    ]  # fmt: skip
            block += 1
            t += 2 + duration
    return rows, trace


def _op(layer: str) -> str:
    kinds = {"conv": "conv2d", "lstm": "lstm", "scores": "attention", "embedding": "embedding"}
    return next((op for part, op in kinds.items() if part in layer), "linear")


def _layers(model: str) -> Iterator[dict[str, Any]]:
    names = MODELS[model]
    for variant in ENERGY:
        for index, layer in enumerate(names):
            ternary = variant in QUANTIZERS and 0 < index < len(names) - 1
            macs = 150_000 * (1 + index % 7)
            bits = 2.0 if ternary else 8.0 if variant == "int8" else 32.0
            op = _op(layer)
            yield {
                "model": model, "variant": variant, "layer": layer, "op": op, "macs": macs,
                "multiplies": 2048 if ternary else macs,
                "adds": int(macs * (0.6 if ternary else 1)),
                "weight_elements": 0 if op == "attention" else 4608, "weight_bits": bits,
                "weight_bytes": 0.0 if op == "attention" else 4608 * bits / 8,
                "weight_zero_fraction": 0.4 if ternary else 0.0, "input_elements": 8192,
                "output_elements": 8192, "activation_bits": 8 if variant.endswith("int8") else 32,
                "supported": not (model == "transformer-lm" and layer == "embedding"),
            }  # fmt: skip


def _estimates(model: str, target: str) -> Iterator[dict[str, Any]]:
    scale = 2e-6 * 1.7 ** TARGETS.index(target)
    for variant, share in ENERGY.items():
        for layer in MODELS[model]:
            for component, part in COMPONENTS.items():
                energy = scale * part * (share if component != "static" else 1.0)
                yield {
                    "model": model, "variant": variant, "target": target, "layer": layer,
                    "component": component, "energy_j": energy, "energy_low_j": energy / 1.4,
                    "energy_high_j": energy * 1.4, "latency_s": 1e-5 * share,
                }  # fmt: skip


if __name__ == "__main__":
    print(large_run(Path(sys.argv[1])).folder)
