"""The analytic model against silicon, against the clock, and beside ZigZag.

    python benchmarks/energy_model.py validate     # every figure of docs/validation.md
    python benchmarks/energy_model.py fit          # the one fitted figure of eyeriss-v1
    python benchmarks/energy_model.py answers      # ResNet-18 on every target
    python benchmarks/energy_model.py speed        # counting, estimating, what-if points
    python benchmarks/energy_model.py zigzag --python VENV/bin/python

``zigzag`` runs zigzag-dse (PyPI; it also needs ``six``) in a virtual environment of its own on
ResNet-18 with its Eyeriss-like accelerator, and this model on the same network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import ttq_energy as te
from ttq_energy import models
from ttq_energy.energy_model import (
    arithmetic_claims,
    compare_estimates,
    estimate,
    explain,
    sweep,
    targets,
)

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "silicon"
OWN_DATA = Path(__file__).parent / "silicon"

# No mapping of VGG-16 is published. These give the published buffer traffic: q r from the writes of
# partial sums, p t from the reads of inputs.
READ_BACK = pd.DataFrame(
    {
        "conv1": (32, 1, 6, 4, 1, 1, 8),
        "conv2": (64, 1, 6, 4, 1, 1, 8),
        "conv3": (32, 1, 28, 16, 2, 1, 2),
        "conv4": (24, 1, 28, 24, 2, 2, 1),
        "conv5": (48, 3, 14, 24, 2, 4, 1),
    },
    index=list("mnepqrt"),
).to_dict()

# What the rules of Eyeriss's mapper and its serial outputs are worth: each taken away alone.
ABLATIONS: dict[str, dict[str, str]] = {
    "none taken away": {},
    "outputs leave while the array works": {"activations.output_drain": "overlapped"},
    "any number of banks for an input tile": {"levels.buffer.input_banks": "25"},
    "sets share columns freely": {"array.stack_sets": "false"},
    "any number of PEs at work": {"array.least_active": "0.01"},
}


class Convolutions(nn.Module):
    """Convolutions one after the other, with ReLU and pooling where the width falls."""

    def __init__(self, layers: list[tuple[str, nn.Conv2d, int]]) -> None:
        super().__init__()
        self.order = [(name, width) for name, _, width in layers]
        for name, layer, _ in layers:
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, (name, _) in enumerate(self.order):
            x = getattr(self, name)(x).relu()
            following = self.order[index + 1 :][:1]
            if following and following[0][1] < x.shape[-1]:
                kernel = 3 if x.shape[-1] % 2 else 2
                x = nn.functional.max_pool2d(x, kernel, 2)
        return x


def alexnet() -> Convolutions:
    return Convolutions(
        [
            ("conv1", nn.Conv2d(3, 96, 11, 4), 227),
            ("conv2", nn.Conv2d(96, 256, 5, padding=2, groups=2), 27),
            ("conv3", nn.Conv2d(256, 384, 3, padding=1), 13),
            ("conv4", nn.Conv2d(384, 384, 3, padding=1, groups=2), 13),
            ("conv5", nn.Conv2d(384, 256, 3, padding=1, groups=2), 13),
        ]
    )


def published_mapping() -> dict[str, dict[str, int]]:
    """What the chip ran on AlexNet."""
    table = pd.read_csv(DATA / "eyeriss-v1-alexnet-mapping.csv").set_index("layer")
    return {str(n): row[list("mnepqrt")].astype(int).to_dict() for n, row in table.iterrows()}


def validate() -> None:
    chip = pd.read_csv(DATA / "eyeriss-v1-alexnet.csv").set_index("layer").drop("total")
    with torch.device("meta"):
        counts = te.count(alexnet(), torch.empty(4, 3, 227, 227))
    for title, mapping in (("searched", None), ("published", published_mapping())):
        print(f"\nEyeriss v1, AlexNet, batch 4, {title} mapping (model / chip - 1)")
        errors = _eyeriss(counts, chip, mapping, 1e6)
        print(errors.map("{:+.1%}".format).to_string())
        print("mean of magnitudes:", errors.abs().mean().map("{:.1%}".format).to_dict())
    vgg = pd.read_csv(OWN_DATA / "eyeriss-v1-vgg16.csv", comment="#").set_index("layer")
    with torch.device("meta"):
        layers = [
            (str(name), nn.Conv2d(row.channels, row.filters, 3, padding=1), row.width)
            for name, row in vgg[["channels", "filters", "width"]].iterrows()
        ]
        counts = te.count(Convolutions(layers), torch.empty(3, 3, 224, 224))
    read_back = {str(name): READ_BACK[str(name).partition("_")[0]] for name in vgg.index}
    for title, mapping in (("searched", None), ("read-back", read_back)):
        print(f"\nEyeriss v1, VGG-16, batch 3, {title} mapping (model / chip - 1; MB as 2^20)")
        errors = _eyeriss(counts, vgg, mapping, 2**20)
        print(errors.map("{:+.1%}".format).to_string())
        print("mean of magnitudes:", errors.abs().mean().map("{:.1%}".format).to_dict())
    print("\nEyeriss v1, VGG-16, searched mapping, without one rule: mean errors of conv1 to conv4")
    for title, overrides in ABLATIONS.items():
        errors = _eyeriss(counts, vgg, None, 2**20, overrides).drop(columns="PEs")
        mean = errors.iloc[:10].mean().map("{:+.0%}".format).to_dict()
        print(f"{title:38s} {mean}")
    print("\nEIE, latency (us)")
    for row in pd.read_csv(OWN_DATA / "eie-layers.csv", comment="#").itertuples():
        us, power_w = _eie(row.inputs, row.outputs, row.weight_density, row.activation_density)
        print(
            f"{row.layer:16s} {us:6.2f}  chip {row.actual_us:5.1f}  {us / row.actual_us - 1:+.1%}"
            f"  {power_w:.2f} W"
        )
    print("\nBrainTTA")
    chip = pd.read_csv(DATA / "same-hardware-precision-ratios.csv").set_index("precision")
    found = _braintta()
    for less, more in (("ternary", "int8"), ("binary", "int8"), ("binary", "ternary")):
        ratio = found[less] / found[more]
        measured = chip["energy_fj_per_op"][less] / chip["energy_fj_per_op"][more]
        print(f"{less} / {more}: {ratio:.3f}  chip {measured:.3f}  {ratio / measured - 1:+.1%}")
    print()
    for claim in arithmetic_claims():
        print(f"{claim.gain:5.1f} times: {claim.name}; {claim.meaning}")


def fit() -> None:
    """Time-proportional power of eyeriss-v1: least squares over AlexNet's relative errors."""
    chip = pd.read_csv(DATA / "eyeriss-v1-alexnet.csv").set_index("layer").drop("total")
    with torch.device("meta"):
        counts = te.count(alexnet(), torch.empty(4, 3, 227, 227))
    zeros = chip["zero_ifmap_fraction"].to_dict()
    result = estimate(counts, "eyeriss-v1", activation_zeros=zeros, mapping=published_mapping())
    seconds = result.layers.set_index("layer")["latency_s"].loc[chip.index]
    parts = result.components.pivot_table(index="layer", columns="component", values="energy_j")
    others = parts.drop(columns=["dram", "static"]).sum(axis=1).loc[chip.index]
    measured = chip["power_mw"] * chip["total_latency_ms"] * 1e-6
    weight, wanted = seconds / measured, 1 - others / measured
    print(f"static_w {(weight * wanted).sum() / (weight**2).sum():.4f}")
    print("of each layer alone:", (wanted / weight).map("{:.3f}".format).to_dict())


def _eyeriss(
    counts: pd.DataFrame,
    chip: pd.DataFrame,
    mapping: object,
    mega: float,
    overrides: dict[str, str] | None = None,
) -> pd.DataFrame:
    zeros = chip["zero_ifmap_fraction"].to_dict()
    target = targets.load("eyeriss-v1", overrides)
    result = estimate(counts, target, activation_zeros=zeros, mapping=mapping)
    layers = result.layers.set_index("layer").loc[chip.index]
    dram = result.components.query("component == 'dram'").set_index("layer")["energy_j"]
    energy = layers["energy_j"] - dram.loc[chip.index]
    reference = chip["power_mw"] * chip["total_latency_ms"] * 1e-6
    return pd.DataFrame(
        {
            "energy": energy / reference - 1,
            "power": energy / layers["latency_s"] / (chip["power_mw"] * 1e-3) - 1,
            "latency": layers["latency_s"] * 1e3 / chip["total_latency_ms"] - 1,
            "buffer": layers["buffer_bytes"] / mega / chip["global_buffer_mb"] - 1,
            "dram": layers["dram_bytes"] / mega / chip["dram_mb"] - 1,
            "PEs": layers["active_units"] / chip["active_pes"] - 1,
        }
    )


def _eie(inputs: int, outputs: int, weights: float, activations: float) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(outputs, inputs, generator=generator) < weights)
    counts = te.count(layer, torch.ones(1, inputs))
    zeros = {counts["layer"][0]: 1 - activations}
    total = estimate(counts, "eie", activation_zeros=zeros).total
    return total.latency_s * 1e6, total.energy_j / total.latency_s


def _braintta() -> dict[str, float]:
    """Joule of one convolution at the chip's three precisions."""
    found = {}
    for name, config, bits in (
        ("int8", None, 8),
        ("ternary", te.TTQ(), 2),
        ("binary", te.BWN(), 1),
    ):
        layer, x = nn.Conv2d(128, 128, 3, padding=1), torch.randn(1, 128, 16, 16)
        if config is not None:
            te.prepare_(layer, config, skip=())
        found[name] = estimate(te.count(layer, x, activation_bits=bits), "braintta").total.energy_j
    return found


def answers() -> None:
    """ResNet-18, TTQ against fp32 and int8, zeros of the threshold on fresh weights."""
    torch.manual_seed(0)
    model, x = models.build("resnet18").eval(), models.example_input("resnet18", 1)
    counts = {v: te.count(model, x, variant=v) for v in ("fp32", "int8", "ttq", "ttq-int8")}
    for name in targets.available():
        found = {v: estimate(c, name) for v, c in counts.items()}
        told = explain(found["fp32"], found["ttq"])
        fair = compare_estimates(found["int8"], found["ttq-int8"])
        r = told.ratio
        print(
            f"{name:16s} ttq/fp32 {r.ratio:.3f} [{r.low:.3f}, {r.high:.3f}] "
            f"latency {r.latency_ratio:.2f}; ttq-int8/int8 {fair.ratio:.3f} "
            f"[{fair.low:.3f}, {fair.high:.3f}]"
        )


def speed() -> None:
    """CPU seconds of one thread, after imports."""
    torch.set_num_threads(1)
    te.count(nn.Linear(2, 2), torch.ones(1, 2))
    estimate(te.count(nn.Linear(2, 2), torch.ones(1, 2)), "generic-45nm")
    for name, chosen in (("resnet50", ["eyeriss-v1"]), ("vgg16", targets.available())):
        model, x = models.build(name).eval(), models.example_input(name, 1)
        began = time.process_time()
        counts = te.count(model, x)
        counted = time.process_time()
        for target in chosen:
            estimate(counts, target)
        ended = time.process_time()
        print(
            f"{name} on {len(chosen)} target(s): count {counted - began:.2f} s, "
            f"estimate {ended - counted:.2f} s"
        )
    model, x = models.build("resnet18"), models.example_input("resnet18", 1)
    fp32, ttq = te.count(model, x), te.count(model, x, variant="ttq")
    axes = {
        "sparsity": [i / 100 for i in range(100)],
        "activation_bits": [4, 8, 16, 32],
        "levels.dram.read_pj": [100.0 * i for i in range(1, 26)],
    }
    began = time.process_time()
    table = sweep(fp32, ttq, "generic-45nm", axes)
    print(f"resnet18, {len(table)} what-if points: {time.process_time() - began:.2f} s")
    for target, key in (("generic-45nm", "levels.dram.read_pj"), ("eyeriss-v1", "static_w")):
        began = time.process_time()
        table = sweep(fp32, ttq, target, {key: [0.01 * i for i in range(1, 10_001)]})
        print(
            f"resnet18, {len(table)} values of {target}'s {key}: "
            f"{time.process_time() - began:.2f} s"
        )


ZIGZAG = """
import json, sys, time
from pathlib import Path
import zigzag
from zigzag.api import get_hardware_performance_zigzag
inputs, out = Path(zigzag.__file__).parent / "inputs", sys.argv[1]
began, cpu = time.perf_counter(), time.process_time()
result = get_hardware_performance_zigzag(
    workload=str(inputs / "workload" / "resnet18.onnx"),
    accelerator=str(inputs / "hardware" / "eyeriss_like.yaml"),
    mapping=str(inputs / "mapping" / "default.yaml"),
    opt="energy",
    lpf_limit=int(sys.argv[2]),
    dump_folder=out,
    pickle_filename=out + "/out.pickle",
)
seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
found = {"s": seconds, "cpu_s": cpu_s, "j": result[0] * 1e-12, "cycles": result[1]}
found |= {"arithmetic_j": 0.0, "dram_j": 0.0}
for layer in Path(out).glob("*_complete.json"):
    energy = json.loads(layer.read_text())["outputs"]["energy"]
    found["arithmetic_j"] += energy["operational_energy"] * 1e-12
    levels = energy["memory_energy_breakdown_per_level"].values()
    found["dram_j"] += sum(level[-1] for level in levels) * 1e-12
print(json.dumps(found))
"""

ZIGZAG_TARGET = Path(__file__).parent / "zigzag_eyeriss_like.yaml"


def zigzag(python: str | None, lpf_limit: int, timeout_s: float) -> None:
    """ResNet-18 on ZigZag's own Eyeriss-like example, and on the same array in this model."""
    print(f"zigzag, lpf_limit {lpf_limit}: {_run_zigzag(python, lpf_limit, timeout_s)}")
    model, x = models.build("resnet18").eval(), models.example_input("resnet18", 1)
    te.count(nn.Linear(2, 2), torch.ones(1, 2))
    began, cpu = time.perf_counter(), time.process_time()
    result = estimate(te.count(model, x, variant="int8"), str(ZIGZAG_TARGET))
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    print(
        f"this model: {seconds:.2f} s ({cpu_s:.2f} s of CPU), {result.total.energy_j:.3g} J, "
        f"{result.total.latency_s * 1e9:.3g} cycles"
    )
    for name, energy_j in result.components.groupby("component")["energy_j"].sum().items():
        print(f"  {name}: {energy_j:.3g} J")
    print(
        "Same network (its ONNX file and ours have the same multiply-accumulates), array, widths, "
        "memories and prices, but for two small memories that are left out here; ZigZag also "
        "searches the loop order of each memory, this model keeps weights in the array."
    )


def _run_zigzag(python: str | None, lpf_limit: int, timeout_s: float) -> str:
    if python is None:
        return "skipped; give --python VENV/bin/python of an environment with zigzag-dse and six"
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "run.py"
        script.write_text(ZIGZAG)
        command = [python, str(script), folder, str(lpf_limit)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=timeout_s
            )
        except FileNotFoundError:
            return f"skipped; {python}: no such interpreter"
        except subprocess.TimeoutExpired:
            return f"not done after {timeout_s:.0f} s"
        told = done.stdout.strip().splitlines()[-1:]
        if "No module named 'zigzag'" in done.stderr:
            return f"skipped; zigzag-dse is not installed for {python}"
        if done.returncode or not told:
            return f"did not finish: {' '.join(done.stderr.strip().splitlines()[-1:])}"
        found = json.loads(told[0])
    return (
        f"{found['s']:.0f} s ({found['cpu_s']:.0f} s of CPU), {found['j']:.3g} J, "
        f"{found['cycles']:.3g} cycles; arithmetic {found['arithmetic_j']:.3g} J, "
        f"DRAM {found['dram_j']:.3g} J"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["validate", "fit", "answers", "speed", "zigzag"])
    parser.add_argument("--python", help="interpreter that has zigzag-dse, for 'zigzag'")
    parser.add_argument("--lpf-limit", type=int, default=6, help="zigzag's loop prime factors [6]")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="of zigzag [600]")
    options = parser.parse_args()
    if options.what == "zigzag":
        zigzag(options.python, options.lpf_limit, options.timeout_s)
        return
    {"validate": validate, "fit": fit, "answers": answers, "speed": speed}[options.what]()


if __name__ == "__main__":
    main()
