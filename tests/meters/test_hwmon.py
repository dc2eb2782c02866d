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


def test_rails_that_feed_a_module_together_are_added_and_no_part_of_them(hwmon):
    for chip, rails in enumerate((("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("VDDQ",))):
        files = {}
        for number, rail in enumerate(rails, start=1):
            files |= {f"in{number}_label": rail, f"in{number}_input": 5000}
            files[f"curr{number}_input"] = 1000 * number
        hwmon(chip, "ina3221", **files)
    domains = HwmonMeter(hwmon.root).domains
    assert [d.name for d in domains if d.additive] == [
        "board-ina3221-vdd-gpu-soc",
        "board-ina3221-vdd-cpu-cv",
        "board-ina3221-vin-sys-5v0",
    ]
    hwmon(2, "ina238", in1_label="VIN", in1_input=20_000, curr1_input=4000)
    assert [d.name for d in HwmonMeter(hwmon.root).domains if d.additive] == ["board-ina238-vin"]


def test_older_jetsons_show_their_rails_by_iio(tmp_path):
    folder = tmp_path / "iio:device0"
    folder.mkdir()
    files = {
        "name": "ina3221x",
        "rail_name_0": "POM_5V_IN",
        "in_power0_input": 4200,
        "rail_name_1": "POM_5V_GPU",
        "in_power1_raw": 300,
        "in_power1_scale": 2.5,
    }
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    with HwmonMeter(tmp_path / "none", iio=tmp_path) as meter:
        assert watts(meter) == pytest.approx(
            {"board-ina3221x-pom-5v-in": 4.2, "board-ina3221x-pom-5v-gpu": 0.75}
        )
        assert [d.name for d in meter.domains if d.additive] == ["board-ina3221x-pom-5v-in"]


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
