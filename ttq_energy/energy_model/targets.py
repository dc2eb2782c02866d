"""Targets: accelerators and processors as YAML, checked against a schema. Imports without torch."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttq_energy.energy_model.figures import ZERO, Figure, evidence_of, read_figure
from ttq_energy.energy_model.target_errors import first_error
from ttq_energy.errors import InputError, unknown_name
from ttq_energy.files import profiles_folder
from ttq_energy.strict_yaml import Document, KeyPath, parse_yaml, read_yaml

TENSORS = ("weight", "input", "output")


@dataclass(frozen=True)
class Mode:
    """One width that the arithmetic units compute at.

    Attributes:
        weights: "float", "int", "ternary" (adds and subtracts only) or "binary".
        macs_per_cycle: multiply-accumulates of one unit in one cycle.
        multiply_pj: of one multiplication; zero for ternary and binary.
        add_pj: of one accumulation.
        scale_pj: of one multiplication by Wp or Wn at an output.
    """

    name: str
    weights: str
    weight_bits: float
    activation_bits: int
    accumulator_bits: int
    macs_per_cycle: float
    multiply_pj: Figure
    add_pj: Figure
    scale_pj: Figure


@dataclass(frozen=True)
class Level:
    """One place where data lie or travel.

    Attributes:
        role: "register" (accessed at each multiply-accumulate), "network" (from buffer to units),
            "buffer" or "dram".
        holds: tensors that use it.
        access_bits: what one access of ``read_pj`` and ``write_pj`` moves.
        size_bytes: infinite where not given; ``bank_bytes`` is the unit in which it is shared out.
        input_banks: that the input tile of one image may take; one channel always may.
        accesses_per_mac: register accesses by tensor, words of the tensor's own width.
        not_gated: tensors whose register accesses go on when a zero gates the unit.
    """

    name: str
    role: str
    holds: tuple[str, ...]
    access_bits: float
    read_pj: Figure
    write_pj: Figure
    size_bytes: float
    bank_bytes: float
    input_banks: float
    accesses_per_mac: Mapping[str, float]
    not_gated: tuple[str, ...]
    bandwidth_bytes_per_s: float
    output_bandwidth_bytes_per_s: float


@dataclass(frozen=True)
class WeightFormat:
    """A way to store weights that the target can decode.

    Attributes:
        scheme: a name of :mod:`ttq_energy.energy_model.storage`.
        index_bits: of run-length and CSR positions.
        decode_pj: for each weight stored in this format that is fetched.
        expanded_in: "dram": packed in DRAM alone; "array": packed in every level.
    """

    scheme: str
    index_bits: int
    decode_pj: Figure
    expanded_in: str


@dataclass(frozen=True)
class Target:
    """An accelerator or processor. Energies in pJ; see docs/targets.md for each key."""

    name: str
    title: str
    description: str
    reference: str
    node_nm: float
    voltage_v: float | None
    clock_hz: float
    dataflow: str
    rows: int
    columns: int
    cores: int
    flexible: bool
    parallelize_inputs: bool
    outputs_per_unit: int
    inputs_per_unit: int | None
    registers: tuple[int, int, int] | None
    weight_words_per_cycle: float
    weight_prefetch_bytes: float
    least_active: float
    stack_sets: bool
    efficiency: float
    modes: tuple[Mode, ...]
    zero_weight: str
    zero_activation: str
    imbalance: Figure
    queue_depth: int | None
    levels: tuple[Level, ...]
    formats: tuple[WeightFormat, ...]
    activation_compression: str
    run_bits: int
    stay_on_chip: bool
    serial_input_fill: bool
    serial_output_drain: bool
    vector_per_cycle: float
    vector_pj: Figure
    static_w: Figure
    figures: Mapping[str, Figure] = field(default_factory=dict, compare=False, hash=False)
    """Every figure of the file by its key, for showing sources."""
    structure: Mapping[str, tuple[str, str]] = field(
        default_factory=dict, compare=False, hash=False
    )
    """(source, evidence) of sizes, widths and numbers of units, by the key that holds them."""

    @property
    def units(self) -> int:
        """Arithmetic units."""
        return self.rows * self.columns * self.cores

    def level(self, role: str) -> Level | None:
        """The first level of a role."""
        return next((level for level in self.levels if level.role == role), None)

    def __hash__(self) -> int:
        return id(self)


def available() -> list[str]:
    """Names of the shipped targets."""
    return sorted(file.stem for file in profiles_folder("targets").glob("*.yaml"))


def load(
    name_or_path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> Target:
    """Read a shipped target by name, or any target from a YAML file.

    Args:
        name_or_path: a name of :func:`available`, or a file.
        overrides: dotted keys and values (text is read as YAML), such as
            ``{"levels.dram.read_pj": 10, "zeros.weight": "skip"}``. Members of lists are
            named by their ``name`` (or ``scheme``) or by their position.

    Raises:
        InputError: an unknown name, an unreadable file, or anything in it that the schema does not
            allow: one line with file, line, key and what is allowed.
    """
    path = find(name_or_path)
    settings = tuple(sorted((key, str(value)) for key, value in (overrides or {}).items()))
    return _load(str(path), path.stat().st_mtime_ns, settings)


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a target given by name or path.

    Raises:
        InputError: there is none.
    """
    text = os.fspath(name_or_path)
    is_path = os.sep in text or text.endswith((".yaml", ".yml"))
    if not is_path:
        if text in available():
            return profiles_folder("targets") / f"{text}.yaml"
        raise unknown_name("target", text, available())
    if not Path(text).exists():
        raise InputError(f"{text}: no such target")
    return Path(text)


@functools.lru_cache(maxsize=256)
def _load(path: str, changed_ns: int, overrides: tuple[tuple[str, str], ...]) -> Target:
    document = read_yaml(path, "target")
    for key, value in overrides:
        _override(document, key, value)
    # Shipped files are checked by the tests; the check would import jsonschema at each start.
    shipped = Path(path).parent == profiles_folder("targets")
    return from_document(document, check=bool(overrides) or not shipped)


def from_document(document: Document, check: bool = True) -> Target:
    """A target from parsed YAML.

    Args:
        document: the file.
        check: hold it against the schema first.

    Raises:
        InputError: see :func:`load`.
    """
    problem = first_error(document.data, schema()) if check else None
    if problem is not None:
        raise InputError(f"{document.where(problem[0])}: {problem[1]}")
    for key in ("modes", "levels", "formats"):
        _refuse_namesakes(document, key)
    return _Reader(document).target()


def _refuse_namesakes(document: Document, key: str) -> None:
    """Members of a list are found, overridden and reported by their names."""
    seen: set[str] = set()
    for index, item in enumerate(document.data.get(key, [])):
        label = "name" if "name" in item else "scheme"
        if item[label] in seen:
            where = document.where((key, index, label))
            raise InputError(f"{where}: '{item[label]}' stands twice among the {key}")
        seen.add(item[label])


@functools.lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The published JSON Schema of a target file."""
    text = (profiles_folder("targets") / "schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _override(document: Document, dotted: str, text: str) -> None:
    where = f"--set {dotted}"
    node = document.data
    keys = dotted.split(".")
    path: list[str | int] = []
    for index, key in enumerate(keys):
        if isinstance(node, list):
            step: Any = _member(node, key, where)
        elif isinstance(node, dict):
            step = key
            valid = _known_keys(tuple(keys[:index]))
            if key not in node and valid and key not in valid:
                raise unknown_name("key", key, valid, where)
        else:
            raise InputError(f"{where}: '{'.'.join(keys[:index])}' holds a single value")
        path.append(step)
        if index == len(keys) - 1:
            document.settings[tuple(path)] = dotted
            node[step] = parse_yaml(f"value: {text}", source=where, what="value").data["value"]
        else:
            if isinstance(node, dict) and step not in node:
                node[step] = {}
            node = node[step]


def _known_keys(path: tuple[str, ...]) -> list[str]:
    """Keys that the schema has for a mapping at the top or one step below it; else none."""
    properties = schema()["properties"]
    if not path:
        return list(properties)
    if len(path) == 1:
        return list(properties.get(path[0], {}).get("properties", {}))
    return []


def _member(items: list[Any], key: str, where: str) -> int:
    names = [str(i.get("name", i.get("scheme", ""))) for i in items if isinstance(i, dict)]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise unknown_name("member", key, names, where)


class _Reader:
    """Turns checked data into a Target, remembering every figure by its key."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.data = document.data
        technology = self.data["technology"]
        self.node_nm = float(technology["node_nm"])
        self.voltage_v = technology.get("voltage_v")
        self.figures: dict[str, Figure] = {}

    def figure(self, path: KeyPath, default: Figure | None = None) -> Figure:
        node: Any = self.data
        names: list[str] = []
        for key in path:
            if isinstance(node, Mapping) and key not in node:
                assert default is not None
                return default
            node = node[key]
            label = key
            if isinstance(node, Mapping) and isinstance(key, int):
                label = node.get("name", node.get("scheme", key))
            names.append(str(label))
        try:
            value = read_figure(node, self.node_nm, self.voltage_v)
        except InputError as error:
            raise InputError(f"{self.document.where(path)}: {error}") from None
        self.figures[".".join(names)] = value
        return value

    def target(self) -> Target:
        data, array = self.data, self.data["array"]
        zeros, activations = data["zeros"], data.get("activations", {})
        registers = array.get("registers")
        one, infinite = Figure(1, 1, 1), Figure(float("inf"), float("inf"), float("inf"))
        return Target(
            name=data["name"],
            title=data["title"],
            description=data.get("description", ""),
            reference=data.get("reference", ""),
            node_nm=self.node_nm,
            voltage_v=self.voltage_v,
            clock_hz=self.figure(("clock_hz",)).value,
            dataflow=array["dataflow"],
            rows=array["rows"],
            columns=array["columns"],
            cores=array.get("cores", 1),
            flexible=array.get("flexible", False),
            parallelize_inputs=array.get("parallelize_inputs", False),
            outputs_per_unit=array.get("outputs_per_unit", 1),
            inputs_per_unit=array.get("inputs_per_unit"),
            registers=registers
            and (registers["weight_words"], registers["input_words"], registers["output_words"]),
            weight_words_per_cycle=self.figure(("array", "weight_words_per_cycle"), infinite).value,
            weight_prefetch_bytes=float(array.get("weight_prefetch_bytes", float("inf"))),
            least_active=self.figure(("array", "least_active"), ZERO).value,
            stack_sets=array.get("stack_sets", False),
            efficiency=self.figure(("array", "efficiency"), one).value,
            modes=tuple(self.mode(i) for i in range(len(data["modes"]))),
            zero_weight=zeros["weight"],
            zero_activation=zeros["activation"],
            imbalance=self.figure(("zeros", "imbalance"), one),
            queue_depth=zeros.get("queue_depth"),
            levels=tuple(self.level(i) for i in range(len(data["levels"]))),
            formats=tuple(self.format(i) for i in range(len(data.get("formats", [])))),
            activation_compression=activations.get("compression", "none"),
            run_bits=activations.get("run_bits", 5),
            stay_on_chip=activations.get("stay_on_chip", False),
            serial_input_fill=activations.get("input_fill") == "serial",
            serial_output_drain=activations.get("output_drain") == "serial",
            vector_per_cycle=float(
                data.get("vector", {}).get(
                    "operations_per_cycle",
                    array["rows"] * array["columns"] * array.get("cores", 1),
                )
            ),
            vector_pj=self.figure(("vector", "operation_pj"), self.figure(("modes", 0, "add_pj"))),
            static_w=self.figure(("static_w",), ZERO),
            figures=self.figures,
            structure=self.structure(),
        )

    def structure(self) -> dict[str, tuple[str, str]]:
        """What is said about the blocks of the file, whose plain numbers are no figures."""
        found: dict[str, tuple[str, str]] = {}
        for key, block in self.data.items():
            for item in block if isinstance(block, list) else [block]:
                # Mappings with a value or an operation are figures.
                if isinstance(item, Mapping) and "source" in item and not {"value"} & set(item):
                    name = item.get("name", item.get("scheme"))
                    label = f"{key}.{name}" if isinstance(block, list) else str(key)
                    found[label] = (str(item["source"]), evidence_of(item))
        return found

    def mode(self, index: int) -> Mode:
        data = self.data["modes"][index]
        add = self.figure(("modes", index, "add_pj"))
        multiply = self.figure(("modes", index, "multiply_pj"), ZERO)
        return Mode(
            name=data["name"],
            weights=data["weights"],
            weight_bits=float(data["weight_bits"]),
            activation_bits=data["activation_bits"],
            accumulator_bits=data["accumulator_bits"],
            macs_per_cycle=float(data.get("macs_per_cycle", 1)),
            multiply_pj=multiply,
            add_pj=add,
            scale_pj=self.figure(("modes", index, "scale_pj"), multiply),
        )

    def level(self, index: int) -> Level:
        data = self.data["levels"][index]
        path = ("levels", index)
        read = self.figure((*path, "read_pj"))
        infinite = Figure(float("inf"), float("inf"), float("inf"))
        return Level(
            name=data["name"],
            role=data["role"],
            holds=tuple(data.get("holds", TENSORS)),
            access_bits=float(data["access_bits"]),
            read_pj=read,
            write_pj=self.figure((*path, "write_pj"), read),
            size_bytes=float(data.get("size_bytes", float("inf"))),
            bank_bytes=float(data.get("bank_bytes", 1)),
            input_banks=float(data.get("input_banks", float("inf"))),
            accesses_per_mac=dict(data.get("accesses_per_mac", {})),
            not_gated=tuple(data.get("not_gated", ())),
            bandwidth_bytes_per_s=self.figure((*path, "bandwidth_bytes_per_s"), infinite).value,
            output_bandwidth_bytes_per_s=self.figure(
                (*path, "output_bandwidth_bytes_per_s"), infinite
            ).value,
        )

    def format(self, index: int) -> WeightFormat:
        data = self.data["formats"][index]
        return WeightFormat(
            scheme=data["scheme"],
            index_bits=data.get("index_bits", 4),
            decode_pj=self.figure(("formats", index, "decode_pj")),
            expanded_in=data.get("expanded_in", "dram"),
        )
