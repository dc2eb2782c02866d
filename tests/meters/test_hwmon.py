"""Board sensors: the rails of a Jetson, an INA chip alone, and what other meters read."""

import pytest

from ttq_energy.errors import SensorError
from ttq_energy.meters import HwmonMeter, Provenance


@pytest.fixture
def hwmon(tmp_path):
    def add(index, chip, **files):
        folder = tmp_path / f"hwmon{index}"
        folder.mkdir()
        (folder / "name").write_text(f"{chip}\n")
        for name, value in files.items():
            (folder / name).write_text(f"{value}\n")
        return folder

    add.root = tmp_path
    return add


def watts(meter):
    return {r.domain: r.power_w for r in meter.read()}


def test_rails_of_a_jetson_of_which_only_the_feed_is_added(hwmon):
    hwmon(
        1,
        "ina3221",
        in1_label="VDD_IN",
        in1_input=5000,
        curr1_input=2400,
        in2_label="VDD_CPU_GPU_CV",
        in2_input=5000,
        curr2_input=800,
        in7_label="sum of shunt voltages",
        in7_input=10,
    )
    with HwmonMeter(hwmon.root) as meter:
        assert watts(meter) == pytest.approx(
            {"board-ina3221-vdd-in": 12.0, "board-ina3221-vdd-cpu-gpu-cv": 4.0}
        )
        assert [d.name for d in meter.domains if d.additive] == ["board-ina3221-vdd-in"]
        assert {d.provenance for d in meter.domains} == {Provenance.INTEGRATED}


def test_a_single_chip_tells_power_and_its_update_interval(hwmon):
    hwmon(0, "ina226", power1_input=7_250_000, update_interval=140)
    with HwmonMeter(hwmon.root) as meter:
        (domain,) = meter.domains
        assert domain.additive
        assert domain.update_period_s == pytest.approx(0.14)
        assert watts(meter) == {"board-ina226-power1": pytest.approx(7.25)}


def test_devices_of_other_meters_and_temperature_chips_are_left_alone(hwmon):
    hwmon(0, "amdgpu", power1_average=90_000_000)
    hwmon(1, "coretemp", temp1_input=40_000)
    with pytest.raises(SensorError, match="hwmon: no power sensor in"):
        HwmonMeter(hwmon.root)
    assert not HwmonMeter.probe(hwmon.root).found


def test_batteries_are_no_sensor_and_an_unknown_device_is_no_whole(hwmon):
    hwmon(0, "BAT0", power1_input=11_000_000)
    hwmon(1, "nouveau", power1_input=30_000_000)
    (domain,) = HwmonMeter(hwmon.root).domains
    assert domain.name == "board-nouveau-power1"
    assert not domain.additive


def test_a_rail_that_fails_is_an_error(hwmon):
    folder = hwmon(0, "ina226", power1_input=7_250_000)
    with HwmonMeter(hwmon.root) as meter:
        (folder / "power1_input").write_text("")
        (reading,) = meter.read()
        assert reading.power_w is None
        assert reading.error


def test_probe_of_a_readable_board(hwmon, monkeypatch):
    monkeypatch.setattr("ttq_energy.meters.hwmon.SPOT_LIMIT_S", 0.02)
    hwmon(0, "ina226", power1_input=7_250_000)
    status = HwmonMeter.probe(hwmon.root)
    assert status.readable
    assert "board-ina226-power1" in status.covers
