"""Which meters are taken: real sensors first, a model only where there is none, others by name."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from ttq_energy.errors import InputError, SensorError
from ttq_energy.meters import (
    METERS,
    Domain,
    Meter,
    Provenance,
    Reading,
    SensorStatus,
    available_meters,
    make_meter,
    probe_all,
    registry,
)


class WallMeter(Meter):
    """A meter of another package."""

    name = "wall"
    domains = (Domain("wall", "system", Provenance.INTEGRATED, "the whole machine"),)

    def start(self) -> None: ...

    def read(self) -> list[Reading]:
        return [Reading("wall", 0.0, power_w=1.0)]

    def stop(self) -> None: ...

    @classmethod
    def probe(cls) -> SensorStatus:
        return SensorStatus("wall", True, True, Provenance.INTEGRATED, "the whole machine")


def kind(name, works):
    def construct(self):
        if not works:
            raise SensorError(f"{name}: absent")

    return type(name, (WallMeter,), {"name": name, "__init__": construct})


@pytest.fixture
def machine(monkeypatch):
    """Meters that work or do not, in the places of the real ones."""

    def arrange(cpu=(), others=(), models=(), points=()):
        monkeypatch.setattr(registry, "CPU_COUNTERS", tuple(kind(*c) for c in cpu))
        monkeypatch.setattr(registry, "OTHER_SENSORS", tuple(kind(*c) for c in others))
        monkeypatch.setattr(registry, "MODELS", tuple(kind(*c) for c in models))
        monkeypatch.setattr(registry, "entry_points", lambda group: list(points))
        return [meter.name for meter in available_meters()]

    return arrange


def test_the_first_way_to_the_cpu_counters_that_works(machine):
    assert machine([("rapl", True), ("rapl-perf", True)], models=[("model", True)]) == ["rapl"]
    assert machine([("rapl", False), ("rapl-perf", True)]) == ["rapl-perf"]


def test_gpus_beside_the_cpu_and_no_model_beside_sensors(machine):
    assert machine([("rapl", True)], [("nvml", True), ("amd-gpu", False)], [("model", True)]) == [
        "rapl",
        "nvml",
    ]
    assert machine([("rapl", False)], [("nvml", True)], [("model", True)]) == ["nvml"]


def test_the_model_only_where_there_is_no_sensor(machine):
    assert machine([("rapl", False)], [("nvml", False)], [("model", True)]) == ["model"]
    assert machine([("rapl", False)], models=[("model", False)]) == []


def entry_point(monkeypatch, value, name="wall"):
    monkeypatch.setitem(sys.modules, "wall_package", sys.modules[__name__])
    return EntryPoint(name, f"wall_package:{value}", "ttq_energy.meters")


def test_meters_of_other_packages(machine, monkeypatch):
    point = entry_point(monkeypatch, "WallMeter")
    assert machine(points=[point]) == ["wall"]
    assert make_meter("wall").name == "wall"
    assert probe_all()[-1].covers == "the whole machine"


def test_a_broken_package_stops_nothing_and_is_told(machine, monkeypatch):
    point = entry_point(monkeypatch, "NoSuchMeter")
    assert machine([("rapl", True)], points=[point]) == ["rapl"]
    assert "failed" in probe_all()[-1].reason
    with pytest.raises(SensorError, match=r"^wall: "):
        make_meter("wall")


def test_an_entry_point_that_is_no_meter(machine, monkeypatch):
    machine(points=[entry_point(monkeypatch, "kind")])
    with pytest.raises(SensorError, match="not a subclass"):
        make_meter("wall")


def test_an_unknown_meter_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown meter 'nvlm'; did you mean 'nvml'\?"):
        make_meter("nvlm")


def test_names_are_unique_and_every_meter_answers_its_probe():
    assert len({meter.name for meter in METERS}) == len(METERS)
    statuses = probe_all()
    assert [status.name for status in statuses][: len(METERS)] == [meter.name for meter in METERS]
    for status in statuses:
        assert status.readable == (not status.reason)


def test_the_meters_import_without_torch():
    code = (
        "import sys, ttq_energy.meters; "
        "heavy = 'torch', 'pandas', 'codecarbon', 'pynvml', 'pyRAPL'; "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
