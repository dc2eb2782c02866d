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
    RaplMeter,
    Reading,
    SensorStatus,
    available_meters,
    host,
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


@pytest.mark.parametrize(
    ("virtual", "container", "says", "helps"),
    [
        (True, True, "its hypervisor exposes none", ""),
        (False, True, "this is a container", "docker run"),
        (False, False, "no RAPL zone", "sudo modprobe"),
    ],
)
def test_why_a_cpu_counter_is_missing_depends_on_the_machine(
    monkeypatch, tmp_path, virtual, container, says, helps
):
    monkeypatch.setattr("ttq_energy.meters.host.sys.platform", "linux")
    monkeypatch.setattr("ttq_energy.meters.host.is_virtual_machine", lambda: virtual)
    monkeypatch.setattr("ttq_energy.meters.host.is_container", lambda: container)
    status = RaplMeter.probe(tmp_path)
    assert says in status.reason
    assert status.remedy.startswith(helps)
    assert bool(status.remedy) == bool(helps)


def test_the_hypervisor_and_the_vendor_are_read_from_cpuinfo(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme hypervisor\n")
    assert host.is_virtual_machine(str(info))
    assert host.cpu_vendor(str(info)) == "GenuineIntel"
    info.write_text("flags : fpu vme\n")
    assert not host.is_virtual_machine(str(info))
    assert host.cpu_vendor(str(tmp_path / "absent")) == ""


def test_gpus_are_told_by_their_pci_class_and_vendor(tmp_path):
    for place, (vendor, kind) in {
        "a": ("0x10de", "0x040300"),
        "b": ("0x1002", "0x030000"),
    }.items():
        (tmp_path / place).mkdir()
        (tmp_path / place / "vendor").write_text(f"{vendor}\n")
        (tmp_path / place / "class").write_text(f"{kind}\n")
    assert host.has_display_device("0x1002", str(tmp_path))
    assert not host.has_display_device("0x10de", str(tmp_path)), "that is its sound device"
