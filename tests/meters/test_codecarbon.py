"""CodeCarbon's own hardware objects: what they rest on is said, and a failed read is no zero."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import ttq_energy
from ttq_energy.errors import SensorError
from ttq_energy.meters import CodeCarbonMeter, Provenance, codecarbon

LOADED = ["codecarbon-cpu", "codecarbon-ram"]


class Load:
    """Scripted psutil CPU times of a two-core machine, and the clock that goes with them."""

    def __init__(self) -> None:
        import psutil

        times = psutil.cpu_times()
        self.blank = times._make([0.0] * len(times))
        self.now, self.busy, self.total = 50.0, 0.0, 0.0

    def run(self, seconds: float, load: float) -> None:
        self.now += seconds
        self.total += 2 * seconds
        self.busy += 2 * seconds * load

    def times(self):
        return self.blank._replace(user=self.busy, idle=self.total - self.busy)


def modelled(monkeypatch, load, *, guessed=False):
    """A meter on CodeCarbon's own load model of a 100 W CPU and its model of memory."""
    from codecarbon.external.hardware import CPU, MODE_CPU_LOAD
    from codecarbon.external.ram import RAM

    cpu = CPU.from_utils(".", MODE_CPU_LOAD, "Test CPU", 100)
    found = codecarbon._Found((RAM(), cpu), guessed)
    monkeypatch.setattr(codecarbon, "_found", lambda: found)
    monkeypatch.setattr(
        "codecarbon.external.hardware.psutil", SimpleNamespace(cpu_times=load.times)
    )
    return CodeCarbonMeter(clock=lambda: load.now)


@pytest.fixture
def load():
    return Load()


def joules(meter):
    return {r.domain: r.energy_j for r in meter.read()}


def test_the_model_is_codecarbons_and_says_so(monkeypatch, load):
    meter = modelled(monkeypatch, load)
    assert [d.name for d in meter.domains] == LOADED
    for domain in meter.domains:
        assert domain.provenance is Provenance.MODELLED
        assert domain.covers.startswith("a model, not a measurement")
    assert "100 W design power of 'Test CPU' from its table" in meter.domains[0].covers


def test_a_guess_is_called_one(monkeypatch, load):
    meter = modelled(monkeypatch, load, guessed=True)
    assert "100 W guessed from the number of threads" in meter.domains[0].covers


def test_energy_follows_the_load(monkeypatch, load):
    meter = modelled(monkeypatch, load)
    with meter:
        load.run(2.0, load=0.0)
        assert joules(meter)["codecarbon-cpu"] == pytest.approx(20.0)
        load.run(1.0, load=1.0)
        assert joules(meter)["codecarbon-cpu"] == pytest.approx(120.0)
        load.run(1.0, load=0.5)
        assert joules(meter)["codecarbon-cpu"] == pytest.approx(120 + 10 + 90 * 0.125)


def test_memory_is_a_constant_at_any_moment(monkeypatch, load):
    meter = modelled(monkeypatch, load)
    with meter:
        load.run(0.3, load=0.0)
        first = joules(meter)["codecarbon-ram"]
        load.run(0.01, load=0.0)
        assert joules(meter)["codecarbon-ram"] == pytest.approx(first * 31 / 30)


def test_looks_too_close_together_keep_the_last_value(monkeypatch, load):
    meter = modelled(monkeypatch, load)
    with meter:
        load.run(1.0, load=1.0)
        before = joules(meter)["codecarbon-cpu"]
        load.run(0.01, load=0.0)
        assert joules(meter)["codecarbon-cpu"] == before
        load.run(0.09, load=0.0)
        assert joules(meter)["codecarbon-cpu"] > before


def test_when_codecarbon_reads_rapl_its_joules_are_a_counters(monkeypatch, powercap):
    from codecarbon.external.hardware import CPU

    powercap.zone("intel-rapl:0", "package-0", uj=9_000_000)
    powercap.zone("intel-rapl:1", "package-1", uj=2_000_000)
    with codecarbon._quiet():
        cpu = CPU("", "intel_rapl", "Test CPU", 100, rapl_dir=str(powercap.devices / "intel-rapl"))
    monkeypatch.setattr(codecarbon, "_found", lambda: codecarbon._Found((cpu,), False))
    monkeypatch.setattr(codecarbon, "SHORTEST_STEP_S", 0.0)
    meter = CodeCarbonMeter()
    (domain,) = meter.domains
    assert domain.provenance is Provenance.COUNTER
    assert domain.same_as == "cpu-package-0"
    with meter:
        powercap.add("intel-rapl:0", 3_000_000)
        powercap.add("intel-rapl:1", 1_000_000)
        assert joules(meter)["codecarbon-cpu"] == pytest.approx(4.0, rel=1e-4)
        powercap.set("intel-rapl:1", "")
        (reading,) = meter.read()
        assert "would report 0" in reading.error
        assert reading.energy_j is None


def test_a_gpu_whose_counter_fails_is_an_error(monkeypatch):
    pytest.importorskip("codecarbon")
    from codecarbon.core.units import Energy

    device = SimpleNamespace(_has_counter=True, _use_power_fallback=False)
    deltas = [{"delta_energy_consumption": Energy(2 / 3.6e6)}]
    devices = SimpleNamespace(devices=[device], get_delta=lambda _: deltas)

    class GPU:
        start = staticmethod(lambda: None)

    gpu = GPU()
    gpu.devices = devices
    monkeypatch.setattr(codecarbon, "_found", lambda: codecarbon._Found((gpu,), False))
    monkeypatch.setattr(codecarbon, "SHORTEST_STEP_S", 0.0)
    with CodeCarbonMeter() as meter:
        assert joules(meter) == {"codecarbon-gpu": pytest.approx(2.0)}
        device._use_power_fallback = True
        assert "fell back to sampled power" in meter.read()[0].error


def test_it_writes_nothing_says_nothing_and_asks_no_network(tmp_path):
    code = """
import socket
def refuse(*_, **__):
    raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from ttq_energy.meters import CodeCarbonMeter
with CodeCarbonMeter() as meter:
    print(all(r.error is None for r in meter.read()))
"""
    package = str(Path(ttq_energy.__file__).parents[1])  # found also where the path was relative
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": package},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
    assert os.listdir(tmp_path) == []
    assert socket.socket.connect


def test_not_installed(monkeypatch):
    codecarbon._found.cache_clear()
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(SensorError, match=r"^codecarbon: it is not installed: pip install"):
        CodeCarbonMeter()
    status = CodeCarbonMeter.probe()
    assert (status.readable, status.provenance) == (False, Provenance.MODELLED)
