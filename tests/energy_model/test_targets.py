"""Targets: what ships is valid and sourced, and a mistake is told with its place."""

import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from ttq_energy.energy_model import targets
from ttq_energy.energy_model.operations import ENERGY_PJ, energy
from ttq_energy.energy_model.target_errors import first_error
from ttq_energy.energy_model.template import TEMPLATE
from ttq_energy.errors import InputError
from ttq_energy.strict_yaml import parse_yaml, read_yaml

ISSUE = {"generic-45nm", "generic-7nm", "eyeriss-v1", "eie", "tpu-v1-like", "braintta", "unpu"}
ISSUE |= {"tim-dnn-like", "fpga-ternary", "cortex-m", "server-cpu-core", "a100-like", "h100-like"}


def test_all_targets_ship():
    assert set(targets.available()) >= ISSUE


@pytest.mark.parametrize("name", sorted(ISSUE))
def test_shipped_targets_keep_the_schema_and_name_their_sources(name):
    document = read_yaml(targets.find(name))
    assert first_error(document.data, targets.schema()) is None
    target = targets.load(name)
    assert target.name == name
    for key, figure in target.figures.items():
        assert figure.source not in ("", "set by the user"), key
        assert figure.low <= figure.value <= figure.high, key
        if figure.assumption and figure.value:
            assert figure.high > figure.low, f"{key}: an assumption needs a range"


def test_the_template_is_a_valid_target():
    target = targets.from_document(parse_yaml(TEMPLATE, "template"))
    assert {mode.weights for mode in target.modes} == {"int", "ternary"}


def changed(tmp_path: Path, old: str, new: str) -> Path:
    assert old in TEMPLATE
    path = tmp_path / "chip.yaml"
    path.write_text(TEMPLATE.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rows: 32 ", "rows: 0 ", "array.rows: must be at least 1 and at most 65536, got 0"),
        ("rows: 32 ", "rosw: 32 ", "unknown key 'rosw'; did you mean 'rows'?"),
        ("weight: gate ", "weight: skipp ", "zeros.weight: unknown value 'skipp'; did you mean"),
        ("weight_bits: 8", "weight_bits: eight", "modes[0].weight_bits: expected a number"),
        ("node_nm: 22", "node_nm: 900", "technology.node_nm: must be at least 2 and at most 250"),
        (
            "{operation: int8_mul}",
            "{operation: int9_mul}",
            "unknown value 'int9_mul'; did you mean 'int8_mul'",
        ),
        ("low: 0.01, high: 0.1", "low: 0.3, high: 0.1", "expected low <= value <= high"),
        ("  rows: 32 ", "  # rows: 32 ", "array: the key 'rows' is missing"),
        ("value: 0.02", "value: -1", "static_w.value: must be at least 0"),
        ("weight-stationary ", "row-stationary ", "the key 'registers' is missing"),
    ],
)
def test_a_mistake_is_told_with_file_line_key_and_range(tmp_path, old, new, expected):
    path = changed(tmp_path, old, new)
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if new.strip() in text)
    with pytest.raises(InputError) as caught:
        targets.load(path)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert message.startswith(str(path))
    if "missing" not in expected:
        assert f"{path}:{line}:" in message


def test_unknown_targets_are_told_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'eyeriss-v1'"):
        targets.load("eyeris-v1")
    with pytest.raises(InputError, match="no such target"):
        targets.load("nowhere/chip.yaml")


def test_overrides_change_figures_by_name():
    target = targets.load("eyeriss-v1", {"levels.dram.read_pj": 10, "zeros.weight": "skip"})
    assert target.level("dram").read_pj.value == 10
    assert target.level("dram").read_pj.source == "set by the user"
    assert target.zero_weight == "skip"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("zeros.wieght", "skip", "did you mean 'weight'"),
        ("levels.drum.read_pj", 1, "did you mean 'dram'"),
        ("clock_hz", -1, "must be above 0"),
        ("name.x", 1, "holds a single value"),
    ],
)
def test_wrong_overrides_are_told(key, value, expected):
    with pytest.raises(InputError, match=expected):
        targets.load("eyeriss-v1", {key: value})


def test_nodes_are_scaled_class_by_class_with_wider_ranges():
    classes = ("int8_add", "sram_8KiB")
    gains = {op: energy(op, 45).value_pj / energy(op, 16).value_pj for op in classes}
    assert gains["int8_add"] > 1.5 * gains["sram_8KiB"] > 1.5
    at_anchor, between = energy("fp32_mul", 7), energy("fp32_mul", 18)
    assert between.high_pj / between.low_pj > at_anchor.high_pj / at_anchor.low_pj
    with pytest.raises(InputError, match="at 7 nm alone"):
        energy("bf16_mul", 45)


def test_targets_load_without_torch():
    code = (
        "import sys; from ttq_energy.energy_model import targets; targets.load('eie');"
        "assert 'torch' not in sys.modules and 'jsonschema' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_recalled_figure_needs_a_range(tmp_path):
    old = 'source: "128 bytes a cycle"'
    bare = changed(tmp_path, old, f"{old}, evidence: recalled")
    with pytest.raises(InputError, match="bandwidth_bytes_per_s: the key 'low' is missing"):
        targets.load(bare)
    ranged = changed(tmp_path, old, f"{old}, evidence: recalled, low: 32.0e9, high: 128.0e9")
    level = targets.load(ranged).figures["levels.buffer.bandwidth_bytes_per_s"]
    assert level.evidence == "recalled"


def test_evidence_says_how_a_figure_is_known():
    target = targets.load("unpu")
    assert target.figures["clock_hz"].evidence == "published"
    assert target.figures["modes.w16.multiply_pj"].evidence == "derived"
    assert target.figures["modes.w2.multiply_pj"].assumption
    assert target.structure["array"][1] == "derived"


# Peak rates as published, in operations (two a multiply-accumulate) or products a second.
PEAKS = [
    ("unpu", "w16", 345.6e9),
    ("unpu", "w4", 4 * 345.6e9),
    ("unpu", "w1", 7372e9),
    ("tpu-v1-like", "int8", 92e12),
    ("tim-dnn-like", "ternary-2bit", 114e12),
    ("braintta", "int8", 77e9),
    ("braintta", "ternary", 307e9),
    ("braintta", "binary", 614e9),
    ("a100-like", "fp32", 19.5e12),
    ("a100-like", "fp16", 312e12),
    ("a100-like", "int8", 624e12),
    ("h100-like", "fp32", 66.9e12),
    ("h100-like", "fp16", 989.4e12),
    ("h100-like", "int8", 1978.9e12),
    ("server-cpu-core", "fp32", 115e9),
    ("server-cpu-core", "int8", 460e9),
]


@pytest.mark.parametrize(("name", "mode", "operations_per_s"), PEAKS)
def test_units_and_clock_give_the_published_peak(name, mode, operations_per_s):
    target = targets.load(name)
    rate = next(m.macs_per_cycle for m in target.modes if m.name == mode)
    assert 2 * rate * target.units * target.clock_hz == pytest.approx(operations_per_s, rel=0.01)


def test_the_schema_knows_the_operations_of_the_table():
    listed = targets.schema()["$defs"]["figure"]["oneOf"][2]["properties"]["operation"]["enum"]
    assert sorted(listed) == sorted([*ENERGY_PJ, "int16_mul", "int16_add"])


SECOND_BUFFER = "  - name: second\n    role: buffer\n    access_bits: 8\n    read_pj: 1\n"
EVERYWHERE = [
    ("", True),
    ("columns: 32 ", "columns: 32.0 ", True),
    ("rows: 32 ", "rows: &n 32 ", True),
    ("value: 0.02", "value: .inf", False),
    ("value: 500.0e6", "value: 1.0e300", False),
    ("low: 0.01, high: 0.04", "low: -0.01, high: 0.04", False),
    ("rows: 32 ", "rows: true ", False),
    ("value: 0.02", 'value: "0.02"', False),
    ("weight-stationary ", "row-stationary ", False),
    ("operation: int8_mul", "operation: int9_mul", False),
    ("  - name: dram ", f"{SECOND_BUFFER}  - name: dram ", False),
    ("name: my-chip", "extends: eie\nname: my-chip", False),
    ("zeros:", "zero:", False),
]


@pytest.mark.parametrize("case", EVERYWHERE)
def test_the_schema_and_the_loader_take_the_same_files(case):
    *change, valid = case
    text = TEMPLATE.replace(change[0], change[1], 1) if len(change) == 2 else TEMPLATE
    document = parse_yaml(text, "chip.yaml")
    validator = jsonschema.Draft202012Validator(targets.schema())
    assert validator.is_valid(document.data) == valid
    if valid:
        targets.from_document(document)
    else:
        with pytest.raises(InputError, match=r"chip\.yaml"):
            targets.from_document(document)


# What a JSON Schema cannot say: relations between values, and NaN.
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("value: 0.02", "value: .nan", "static_w.value: expected a number, got nan"),
        ("- name: ternary ", "- name: int8 ", "'int8' stands twice among the modes"),
        ("technology:", "technology: &a", "an anchor that holds itself"),
    ],
)
def test_the_loader_alone_refuses(old, new, expected):
    text = TEMPLATE.replace(old, new, 1)
    if "&a" in new:
        text = text.replace("node_nm: 22 ", "node_nm: *a ")
    with pytest.raises(InputError, match=expected):
        targets.from_document(parse_yaml(text, "chip.yaml"))


def test_a_figure_set_out_of_range_is_blamed_on_the_setting():
    with pytest.raises(InputError, match=r"^--set levels\.dram\.read_pj: must be .*, got -1$"):
        targets.load("generic-45nm", {"levels.dram.read_pj": -1})
    with pytest.raises(InputError, match=r"^--set technology: the key 'node_nm' is missing"):
        targets.load("generic-45nm", {"technology": "{}"})
