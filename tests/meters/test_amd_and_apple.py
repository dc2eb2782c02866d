"""Meters behind vendors' libraries, with those libraries replaced."""

import pickle
import sys
from types import ModuleType, SimpleNamespace

import pytest

from ttq_energy.errors import SensorError
from ttq_energy.meters import AmdGpuMeter, AppleMeter, Provenance

STEP_J = 15.3e-6


@pytest.fixture
def amdsmi(monkeypatch):
    """A library with one GPU of 300 W."""
    library = ModuleType("amdsmi")
    library.count, library.power, library.fail = 10**9, {"current_socket_power": 300}, False

    def energy(handle):
        if library.fail:
            raise RuntimeError("AMDSMI_STATUS_BUSY")
        return {"energy_accumulator": library.count, "counter_resolution": 15.3, "timestamp": 1}

    library.amdsmi_init = library.amdsmi_shut_down = lambda: None
    library.amdsmi_get_processor_handles = lambda: ["gpu"]
    library.amdsmi_get_gpu_asic_info = lambda handle: {"market_name": "MI210"}
    library.amdsmi_get_gpu_driver_info = lambda handle: {"driver_version": "6.7.0"}
    library.amdsmi_get_energy_count = energy
    library.amdsmi_get_power_info = lambda handle: library.power
    monkeypatch.setitem(sys.modules, "amdsmi", library)
    return library


def by_domain(meter):
    return {r.domain: r for r in meter.read()}


def test_amd_energy_and_power(amdsmi):
    with AmdGpuMeter() as meter:
        counter, power = meter.domains
        assert (counter.name, counter.provenance) == ("amd-gpu-0", Provenance.COUNTER)
        assert (power.name, power.additive) == ("amd-gpu-0-power", False)
        amdsmi.count += round(40.0 / STEP_J)
        readings = by_domain(meter)
        assert readings["amd-gpu-0"].energy_j == pytest.approx(40.0, rel=1e-6)
        assert readings["amd-gpu-0-power"].power_w == 300.0
        assert pickle.loads(pickle.dumps(meter)).domains == meter.domains


def test_amd_failures_are_errors(amdsmi):
    with AmdGpuMeter() as meter:
        amdsmi.fail = True
        amdsmi.power = {"current_socket_power": "N/A", "average_socket_power": 65535}
        readings = by_domain(meter)
        assert "BUSY" in readings["amd-gpu-0"].error
        assert readings["amd-gpu-0-power"].error
        assert readings["amd-gpu-0-power"].power_w is None


def test_amd_second_chip_of_a_board_has_no_counter(amdsmi):
    amdsmi.count = 0
    (power,) = AmdGpuMeter().domains
    assert power.additive
    assert power.provenance is Provenance.INTEGRATED


def test_no_amd_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    monkeypatch.setattr("ttq_energy.meters.amd_gpu.has_display_device", lambda vendor: False)
    with pytest.raises(SensorError, match="no AMD GPU on this machine"):
        AmdGpuMeter()
    monkeypatch.setattr("ttq_energy.meters.amd_gpu.has_display_device", lambda vendor: True)
    assert AmdGpuMeter.probe().remedy == "pip install amdsmi"


@pytest.fixture
def apple(monkeypatch):
    """A chip whose counters stand in ``values``; no figure of the neural engine."""
    values = {"cpu_total_mj": 1000, "gpu_mj": 500, "gpu_sram_mj": 0, "dram_mj": 70, "ane_mj": None}
    library = ModuleType("zeus_apple_silicon")

    class AppleEnergyMonitor:
        def get_cumulative_energy(self):
            return SimpleNamespace(**values)

    library.AppleEnergyMonitor = AppleEnergyMonitor
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", library)
    monkeypatch.setattr("ttq_energy.meters.apple._is_apple", lambda: True)
    return values


def test_apple_parts(apple):
    with AppleMeter() as meter:
        apple["cpu_total_mj"] += 2500
        apple["dram_mj"] = None
        readings = by_domain(meter)
        assert "apple-ane" not in readings
        assert readings["apple-cpu"].energy_j == pytest.approx(2.5)
        assert readings["apple-gpu"].energy_j == 0.0
        assert readings["apple-dram"].error
    assert all(reading.error for reading in meter.read())


def test_not_an_apple():
    if sys.platform == "darwin":
        pytest.skip("this is a Mac")
    with pytest.raises(SensorError, match="not a Mac"):
        AppleMeter()
    assert not AppleMeter.probe().found
