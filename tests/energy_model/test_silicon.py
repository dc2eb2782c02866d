"""The model against published silicon: see docs/validation.md."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import ttq_energy as te
from ttq_energy.energy_model import arithmetic_claims, estimate
from ttq_energy.energy_model.operations import ENERGY_PJ, energy

OWN_DATA = Path(__file__).parents[2] / "benchmarks" / "silicon"
DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "silicon"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA}: published figures not here")
pytestmark = needs_data


class AlexNetConvolutions(nn.Module):
    """The five grouped convolutions of 2012, without padding where the chip's table has none."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 11, 4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x):
        x = self.pool(self.conv1(x).relu())
        x = self.pool(self.conv2(x).relu())
        return self.conv5(self.conv4(self.conv3(x).relu()).relu()).relu()


@pytest.fixture(scope="module", params=["searched", "published"])
def eyeriss(request):
    """Errors of every quantity by layer, model over chip less 1."""
    chip = pd.read_csv(DATA / "eyeriss-v1-alexnet.csv").set_index("layer").drop("total")
    table = pd.read_csv(DATA / "eyeriss-v1-alexnet-mapping.csv").set_index("layer")
    published = {name: row[list("mnepqrt")].astype(int).to_dict() for name, row in table.iterrows()}
    with torch.device("meta"):
        model = AlexNetConvolutions()
    counts = te.count(model, torch.empty(4, 3, 227, 227, device="meta"))
    result = estimate(
        counts,
        target="eyeriss-v1",
        activation_zeros=chip["zero_ifmap_fraction"].to_dict(),
        mapping=published if request.param == "published" else None,
    )
    layers = result.layers.set_index("layer").loc[chip.index]
    dram = result.components.query("component == 'dram'").set_index("layer")["energy_j"]
    on_chip = layers["energy_j"] - dram.loc[chip.index]
    chip_energy = chip["power_mw"] * 1e-3 * chip["total_latency_ms"] * 1e-3
    return pd.DataFrame(
        {
            "energy": on_chip / chip_energy - 1,
            "buffer": layers["buffer_bytes"] / 1e6 / chip["global_buffer_mb"] - 1,
            "dram": layers["dram_bytes"] / 1e6 / chip["dram_mb"] - 1,
            "latency": layers["latency_s"] * 1e3 / chip["total_latency_ms"] - 1,
            "active": layers["active_units"] / chip["active_pes"] - 1,
        }
    ).abs()


def test_eyeriss_energy_of_alexnet(eyeriss):
    assert eyeriss["energy"].max() < 0.25
    assert eyeriss["energy"].mean() < 0.12


def test_eyeriss_traffic_of_alexnet(eyeriss):
    assert eyeriss["buffer"].mean() < 0.15
    assert eyeriss["dram"].max() < 0.30


def test_eyeriss_latency_and_active_units_of_alexnet(eyeriss):
    assert eyeriss["latency"].max() < 0.20
    assert eyeriss["active"].max() < 0.01


@pytest.fixture(scope="module")
def vgg16():
    """Errors on the 13 convolutions of VGG-16, batch 3, with the mapping that the search finds."""
    chip = pd.read_csv(OWN_DATA / "eyeriss-v1-vgg16.csv", comment="#").set_index("layer")
    rows = []
    for name, layer in chip.iterrows():
        with torch.device("meta"):
            conv = nn.Conv2d(int(layer["channels"]), int(layer["filters"]), 3, padding=1)
            x = torch.empty(3, int(layer["channels"]), int(layer["width"]), int(layer["width"]))
        counts = te.count(conv, x)
        zeros = {counts["layer"][0]: layer["zero_ifmap_fraction"]}
        found = estimate(counts, "eyeriss-v1", activation_zeros=zeros)
        parts = found.components.set_index("component")["energy_j"]
        measured = layer["power_mw"] * layer["total_latency_ms"] * 1e-6
        row = found.layers.iloc[0]
        rows.append(
            {
                "layer": name,
                "energy": (found.total.energy_j - parts["dram"]) / measured - 1,
                "latency": row["latency_s"] * 1e3 / layer["total_latency_ms"] - 1,
                "buffer": row["buffer_bytes"] / 2**20 / layer["global_buffer_mb"] - 1,
                "dram": row["dram_bytes"] / 2**20 / layer["dram_mb"] - 1,
                "active": row["active_units"] / layer["active_pes"] - 1,
            }
        )
    return pd.DataFrame(rows).set_index("layer").abs()


def test_eyeriss_on_vgg16_with_the_constant_fitted_on_alexnet(vgg16):
    assert vgg16["energy"].max() < 0.25
    assert vgg16["energy"].mean() < 0.13
    assert vgg16["latency"].max() < 0.25
    assert vgg16["latency"].mean() < 0.12


def test_eyeriss_traffic_and_active_units_of_vgg16(vgg16):
    assert vgg16["buffer"].mean() < 0.15
    assert vgg16["dram"].mean() < 0.30
    assert vgg16["active"].max() < 0.10


EIE_LAYERS = pd.read_csv(OWN_DATA / "eie-layers.csv", comment="#").set_index("layer")


def on_eie(name):
    row = EIE_LAYERS.loc[name]
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(int(row["inputs"]), int(row["outputs"]), bias=False)
    with torch.no_grad():
        kept = torch.rand(layer.weight.shape, generator=generator) < row["weight_density"]
        layer.weight.copy_(kept)
    counts = te.count(layer, torch.ones(1, int(row["inputs"])))
    zeros = {counts["layer"][0]: 1 - row["activation_density"]}
    return estimate(counts, "eie", activation_zeros=zeros).total


@pytest.mark.parametrize("name", EIE_LAYERS.index)
def test_eie_latency(name):
    assert on_eie(name).latency_s * 1e6 == pytest.approx(EIE_LAYERS["actual_us"][name], rel=0.2)


def test_eie_tables_agree_and_so_does_its_power():
    chip = pd.read_csv(DATA / "eie-alexnet-fc.csv").set_index("layer")
    for name, row in chip.iterrows():
        assert EIE_LAYERS["actual_us"][f"AlexNet {name}"] == row["actual_us"]
        total = on_eie(f"AlexNet {name}")
        assert total.energy_j / total.latency_s == pytest.approx(row["chip_power_w"], rel=0.2)


def test_braintta_ternary_to_int8():
    chip = pd.read_csv(DATA / "same-hardware-precision-ratios.csv").set_index("precision")
    layer, x = nn.Conv2d(128, 128, 3, padding=1), torch.randn(1, 128, 16, 16)
    int8 = estimate(te.count(layer, x, activation_bits=8), "braintta")
    te.prepare_(layer, te.TTQ(), skip=())
    ternary = estimate(te.count(layer, x, activation_bits=2), "braintta")
    measured = chip["energy_fj_per_op"]
    ratio = ternary.total.energy_j / int8.total.energy_j
    assert ratio == pytest.approx(measured["ternary"] / measured["int8"], rel=0.2)
    operations = 2 * int8.layers["macs"].sum()
    assert operations / int8.total.latency_s / 1e9 == pytest.approx(77, rel=0.02)
    assert operations / ternary.total.latency_s / 1e9 == pytest.approx(307, rel=0.02)


def test_the_operation_table_is_the_published_one():
    table = pd.read_csv(DATA / "energy-per-operation.csv")
    names = {"sram_8KiB_access": "sram_8KiB", "sram_32KiB_access": "sram_32KiB"}
    names |= {"sram_1MiB_access": "sram_1MiB", "dram_ddr_access": "dram_ddr"}
    for row in table.itertuples():
        key = names.get(row.operation) or row.operation.replace("int_", f"int{row.width_bits}_")
        if key not in ENERGY_PJ:
            continue
        for node, published in ((45, row.energy_pj_45nm), (7, row.energy_pj_7nm)):
            if published == published:
                assert energy(key, node).value_pj == pytest.approx(published)


def test_the_claim_of_71_times():
    gains = [round(claim.gain, 1) for claim in arithmetic_claims()]
    assert gains == [71.4, 16.7, 3.3, 5.1]
