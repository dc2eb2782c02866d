"""pyRAPL itself on a replaced /sys: what it gets wrong is repaired around it."""

import logging
import os
import subprocess
import sys
import types

import pytest

from ttq_energy.errors import SensorError
from ttq_energy.measurement import EnergyMonitor
from ttq_energy.meters import PyRaplMeter, RaplMeter
from ttq_energy.meters.pyrapl import _library

POWERCAP = "/sys/class/powercap"
CPUS = "/sys/devices/system/cpu"


@pytest.fixture
def replaced_sys(powercap, tmp_path, monkeypatch):
    """pyRAPL's fixed paths lead into the tree; two CPUs in two sockets."""
    import pyRAPL.device_api

    cpus = tmp_path / "cpu"
    cpus.mkdir()
    (cpus / "present").write_text("0-1\n")
    for cpu in (0, 1):
        (cpus / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (cpus / f"cpu{cpu}" / "topology" / "physical_package_id").write_text(f"{cpu}\n")

    def moved(path):
        return path.replace(POWERCAP, str(powercap.root)).replace(CPUS, str(cpus))

    shim = types.SimpleNamespace(
        path=types.SimpleNamespace(exists=lambda p: os.path.exists(moved(p)))
    )
    monkeypatch.setattr(pyRAPL.device_api, "os", shim)
    real = open
    monkeypatch.setattr(
        pyRAPL.device_api, "open", lambda path, mode="r": real(moved(path), mode), raising=False
    )
    monkeypatch.setattr("ttq_energy.meters.pyrapl.ROOT", str(powercap.root))
    return cpus


def joules(meter):
    return {r.domain: r.energy_j for r in meter.read()}


def test_packages_and_memory(server, replaced_sys):
    with PyRaplMeter() as meter:
        assert [d.name for d in meter.domains] == [
            "pyrapl-package-0",
            "pyrapl-package-1",
            "pyrapl-dram-0",
            "pyrapl-dram-1",
        ]
        server.add("intel-rapl:1", 2_000_000)
        server.add("intel-rapl:0:0", 500_000)
        assert joules(meter) == pytest.approx(
            {
                "pyrapl-package-0": 0.0,
                "pyrapl-package-1": 2.0,
                "pyrapl-dram-0": 0.5,
                "pyrapl-dram-1": 0.0,
            }
        )


def test_a_wrap_that_pyrapl_would_show_as_minus_one(server, replaced_sys):
    top = 262_143_328_850
    server.set("intel-rapl:0", top - 999_999)
    with PyRaplMeter() as meter:
        server.set("intel-rapl:0", 3_000_000)
        assert joules(meter)["pyrapl-package-0"] == pytest.approx(4.0)


def test_without_memory_zones_the_packages_are_still_read(powercap, replaced_sys):
    for socket in (0, 1):
        powercap.zone(f"intel-rapl:{socket}", f"package-{socket}")
    assert [d.name for d in PyRaplMeter().domains] == ["pyrapl-package-0", "pyrapl-package-1"]


def test_a_memory_zone_that_fails_does_not_take_the_packages_with_it(server, replaced_sys):
    with PyRaplMeter() as meter:
        server.set("intel-rapl:1:0", "")
        server.add("intel-rapl:0", 1_000_000)
        readings = {r.domain: r for r in meter.read()}
        assert readings["pyrapl-dram-1"].error
        assert readings["pyrapl-dram-1"].energy_j is None
        assert readings["pyrapl-package-0"].energy_j == pytest.approx(1.0)


def test_beside_the_rapl_meter_it_is_compared_but_not_added(server, replaced_sys):
    with EnergyMonitor([RaplMeter(server.root), PyRaplMeter()]) as monitor:
        added = {name for name, domain in monitor.domains.items() if domain.additive}
    assert added == {"cpu-package-0", "cpu-package-1", "dram-0", "dram-1"}
    with EnergyMonitor([PyRaplMeter()]) as monitor:
        assert all(domain.additive for domain in monitor.domains.values())


def test_no_rapl(replaced_sys):
    with pytest.raises(SensorError, match=r"^pyrapl: pyRAPL finds no RAPL package"):
        PyRaplMeter()
    status = PyRaplMeter.probe()
    assert (status.found, status.readable) == (False, False)


def test_importing_it_prints_nothing_and_leaves_logging_alone():
    code = (
        "import logging, ttq_energy.meters.pyrapl as p; p._library(); "
        "print(len(logging.getLogger().handlers), logging.root.manager.disable)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0 0\n", "")
    assert _library().__version__ == "0.2.3.1"
    assert logging.root.manager.disable == 0
