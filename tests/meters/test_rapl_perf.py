"""RAPL by perf events: PMUs described in a tree of files, the system call replaced."""

import errno

import pytest

from ttq_energy.errors import SensorError
from ttq_energy.meters import RaplPerfMeter
from ttq_energy.meters.perf_events import PerfCounter, PerfEvent, cpu_list, pmu_events

SCALE = 2.0**-32


class Machine:
    """The PMUs and CPUs as sysfs shows them, and the counts behind their events."""

    def __init__(self, folder):
        self.root = folder / "devices"
        self.cpus = folder / "cpu"
        self.counts: dict[tuple[int, int, int], int] = {}
        self.refusal: OSError | None = None
        self.open = 0

    def pmu(self, name: str, kind: int, cpumask: str, events: dict[str, int]) -> None:
        folder = self.root / name
        (folder / "events").mkdir(parents=True)
        (folder / "format").mkdir()
        (folder / "type").write_text(f"{kind}\n")
        (folder / "cpumask").write_text(f"{cpumask}\n")
        (folder / "format" / "event").write_text("config:0-7\n")
        for event, code in events.items():
            (folder / "events" / event).write_text(f"event={code:#04x}\n")
            (folder / "events" / f"{event}.scale").write_text("2.3283064365386962890625e-10\n")
            (folder / "events" / f"{event}.unit").write_text("Joules\n")

    def cpu(self, number: int, package: int, die: int = 0) -> None:
        folder = self.cpus / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{package}\n")
        (folder / "die_id").write_text(f"{die}\n")

    def add(self, kind: int, code: int, cpu: int, joules: float) -> None:
        key = (kind, code, cpu)
        self.counts[key] = self.counts.get(key, 0) + round(joules / SCALE)

    def meter(self, **options) -> RaplPerfMeter:
        return RaplPerfMeter(self.root, cpus=self.cpus, **options)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    machine = Machine(tmp_path)

    class Counter:
        def __init__(self, event: PerfEvent, cpu: int) -> None:
            if machine.refusal is not None:
                raise machine.refusal
            self.key = (event.kind, event.config, cpu)
            machine.open += 1

        def read(self) -> int:
            if self.key[2] in machine.offline:
                raise OSError(errno.ENODEV, "No such device")
            return machine.counts.get(self.key, 0)

        def close(self) -> None:
            machine.open -= 1

    machine.offline = set()
    monkeypatch.setattr("ttq_energy.meters.rapl_perf.PerfCounter", Counter)
    return machine


@pytest.fixture
def server(machine):
    machine.pmu("power", 21, "0,18", {"energy-pkg": 2, "energy-ram": 3, "energy-psys": 5})
    machine.cpu(0, 0)
    machine.cpu(18, 1)
    return machine


def joules(meter):
    return {r.domain: r.energy_j for r in meter.read()}


def test_packages_and_memory_of_two_sockets(server):
    with server.meter() as meter:
        assert [d.name for d in meter.domains if d.additive] == [
            "cpu-package-0",
            "cpu-package-1",
            "dram-0",
            "dram-1",
        ]
        assert [d.name for d in meter.domains if not d.additive] == ["psys"]
        server.add(21, 2, 0, 12.5)
        server.add(21, 2, 18, 3.25)
        server.add(21, 3, 18, 0.5)
        assert joules(meter) == pytest.approx(
            {"cpu-package-0": 12.5, "cpu-package-1": 3.25, "dram-0": 0, "dram-1": 0.5, "psys": 0}
        )
    assert server.open == 0


def test_dies_of_one_package_bear_their_own_names(machine):
    machine.pmu("power", 21, "0,8", {"energy-pkg": 2})
    machine.cpu(0, 0, die=0)
    machine.cpu(8, 0, die=1)
    assert [d.name for d in machine.meter().domains] == [
        "cpu-package-0-die-0",
        "cpu-package-0-die-1",
    ]


def test_amd_cores_are_summed_when_asked_for_and_never_added(machine):
    machine.pmu("power", 21, "0", {"energy-pkg": 2})
    machine.pmu("power_core", 22, "0-2", {"energy-core": 1})
    for cpu in range(3):
        machine.cpu(cpu, 0)
    assert [d.name for d in machine.meter().domains] == ["cpu-package-0"]
    with machine.meter(per_core=True) as meter:
        for cpu in range(3):
            machine.add(22, 1, cpu, 1.5)
        assert joules(meter) == {"cpu-package-0": 0.0, "cpu-core-0": 4.5}
        assert [d.name for d in meter.domains if d.additive] == ["cpu-package-0"]


def test_no_pmu(machine):
    with pytest.raises(SensorError, match=r"^rapl-perf: no PMU 'power' in"):
        machine.meter()
    assert not RaplPerfMeter.probe(machine.root).found


def test_a_refusal_says_the_command_that_lifts_it(server, monkeypatch):
    monkeypatch.setattr("ttq_energy.meters.rapl_perf.is_container", lambda: False)
    server.refusal = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(SensorError, match=r"sudo sysctl kernel.perf_event_paranoid=0"):
        server.meter()
    status = RaplPerfMeter.probe(server.root)
    assert (status.found, status.readable) == (True, False)
    assert status.remedy == "sudo sysctl kernel.perf_event_paranoid=0"
    assert server.open == 0


def test_a_cpu_that_goes_offline_is_an_error_of_its_package_only(server):
    with server.meter() as meter:
        server.offline.add(18)
        server.add(21, 2, 0, 1.0)
        readings = {r.domain: r for r in meter.read()}
        assert readings["cpu-package-1"].error
        assert readings["cpu-package-1"].energy_j is None
        assert readings["cpu-package-0"].energy_j == pytest.approx(1.0)


def test_a_count_that_goes_back_is_an_error(server):
    server.add(21, 2, 0, 5.0)
    with server.meter() as meter:
        server.add(21, 2, 0, -2.0)
        assert "went back" in {r.domain: r.error for r in meter.read()}["cpu-package-0"]


def test_events_are_read_as_the_kernel_describes_them(machine):
    machine.pmu("odd", 9, "0-1,4", {"energy-pkg": 2})
    (machine.root / "odd" / "events" / "energy-pkg").write_text("event=0x2,umask=3\n")
    (machine.root / "odd" / "format" / "umask").write_text("config:8-15\n")
    (event,) = pmu_events(machine.root / "odd")
    assert event == PerfEvent("energy-pkg", 9, 0x302, SCALE, "Joules", (0, 1, 4))
    assert cpu_list("") == []


def test_the_real_system_call_counts(tmp_path):
    clock = PerfEvent("cpu-clock", kind=1, config=0, scale=1e-9, unit="s", cpus=(0,))
    try:
        counter = PerfCounter(clock, 0)
    except OSError as error:
        pytest.skip(f"perf_event_open: {error}")
    first = counter.read()
    assert counter.read() > first >= 0
    counter.close()
    counter.close()
