"""RAPL by powercap on trees of files: what is found, what may be added, and what wraps."""

import time

import pytest

from ttq_energy.errors import SensorError
from ttq_energy.meters import Provenance, RaplMeter
from ttq_energy.meters.rapl_zones import find_zones


def joules(meter):
    return {r.domain: r.energy_j for r in meter.read()}


def errors(meter):
    return {r.domain: r.error for r in meter.read() if r.error is not None}


def additive(meter):
    return [domain.name for domain in meter.domains if domain.additive]


# -- what is found --------------------------------------------------------------------------------


def test_two_sockets_with_memory_are_added_and_the_mmio_copy_is_not_found(server):
    with RaplMeter(server.root) as meter:
        assert additive(meter) == ["cpu-package-0", "dram-0", "cpu-package-1", "dram-1"]
        assert len(meter.domains) == 4
        server.add("intel-rapl:0", 2_500_000)
        server.add("intel-rapl:1:0", 300_000)
        server.add("intel-rapl-mmio:0", 9_000_000)
        assert joules(meter) == pytest.approx(
            {"cpu-package-0": 2.5, "dram-0": 0.0, "cpu-package-1": 0.0, "dram-1": 0.3}
        )


def test_parts_and_psys_of_a_client_are_told_but_never_added(client):
    meter = RaplMeter(client.root)
    assert [d.name for d in meter.domains] == [
        "cpu-package-0",
        "cpu-core-0",
        "cpu-uncore-0",
        "psys",
    ]
    assert additive(meter) == ["cpu-package-0"]
    assert {d.provenance for d in meter.domains} == {Provenance.COUNTER}
    assert all(d.covers for d in meter.domains)


def test_the_nested_tree_gives_the_same_as_the_flat_one(server):
    flat = [d.name for d in RaplMeter(server.root).domains]
    assert [d.name for d in RaplMeter(server.devices).domains] == flat


def test_gaps_in_the_indices_and_dies(powercap):
    powercap.zone("intel-rapl:1", "package-0-die-0", uj=111_000_000)
    powercap.zone("intel-rapl:4", "package-0-die-1", uj=999_000_000)
    powercap.zone("intel-rapl:4:3", "dram", uj=5)
    powercap.zone("intel-rapl:7", "package-1-die-0", uj=333_000_000)
    meter = RaplMeter(powercap.root)
    assert additive(meter) == [
        "cpu-package-0-die-0",
        "cpu-package-0-die-1",
        "dram-0-die-1",
        "cpu-package-1-die-0",
    ]


def test_dies_that_show_one_counter_count_once(powercap):
    powercap.zone("intel-rapl:0", "package-0-die-0", uj=123_456_789)
    powercap.zone("intel-rapl:1", "package-0-die-1", uj=123_456_789)
    meter = RaplMeter(powercap.root)
    assert [d.name for d in meter.domains] == ["cpu-package-0-die-0"]
    assert "once more" in meter.left_out["cpu-package-0-die-1"]


def test_amd_core_zone_is_one_core(powercap, monkeypatch):
    powercap.zone("intel-rapl:0", "package-0")
    powercap.zone("intel-rapl:0:0", "core")
    monkeypatch.setattr("ttq_energy.meters.rapl.cpu_vendor", lambda: "AuthenticAMD")
    package, core = RaplMeter(powercap.root).domains
    assert package.additive
    assert not core.additive
    assert "single core" in core.covers


def test_mmio_alone_is_used(powercap):
    powercap.zone("intel-rapl-mmio:0", "package-0")
    assert additive(RaplMeter(powercap.root)) == ["cpu-package-0"]


def test_resolution_is_a_step_of_the_32_bit_register(server):
    by_name = {d.name: d for d in RaplMeter(server.root).domains}
    assert by_name["cpu-package-0"].resolution_j == pytest.approx(61.035e-6, rel=1e-4)
    assert by_name["dram-0"].resolution_j == pytest.approx(15.3e-6, rel=1e-3)


# -- what goes wrong ------------------------------------------------------------------------------


def test_no_zone(powercap):
    assert find_zones(powercap.root) == []
    with pytest.raises(SensorError, match=r"^rapl: no RAPL zone in .*powercap") as caught:
        RaplMeter(powercap.root)
    assert "\n" not in str(caught.value)
    status = RaplMeter.probe(powercap.root)
    assert (status.found, status.readable) == (False, False)
    assert "no RAPL zone" in status.reason


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(SensorError, match="no RAPL zone"):
        RaplMeter(tmp_path / "absent")


def test_root_only_counters_say_the_command_that_opens_them(server, root_only):
    command = f"sudo chmod a+r {server.root}/intel-rapl*/energy_uj"
    with pytest.raises(SensorError, match="permission denied") as caught:
        RaplMeter(server.root)
    assert command in str(caught.value)
    status = RaplMeter.probe(server.root)
    assert (status.found, status.readable, status.remedy) == (True, False, command)
    assert "permission denied" in status.reason
    assert "cpu-package-1" in status.covers


def test_an_unreadable_memory_zone_is_left_out_and_said(server):
    server.file("intel-rapl:0:0").unlink()
    server.file("intel-rapl:0:0").mkdir()
    meter = RaplMeter(server.root)
    assert "dram-0" not in additive(meter)
    assert "dram-0" in meter.left_out
    assert "dram-0" in RaplMeter.probe(server.root).covers


def test_reading_before_the_start_is_an_error(server):
    assert all(reading.error for reading in RaplMeter(server.root).read())


# -- counters that wrap, jump, freeze and vanish --------------------------------------------------


def test_wraps_are_undone_with_the_modulus_of_the_range_plus_one(powercap):
    powercap.zone("intel-rapl:0", "package-0", uj=999_000, range_uj=999_999)
    with RaplMeter(powercap.root) as meter:
        powercap.set("intel-rapl:0", 500)
        assert joules(meter)["cpu-package-0"] == pytest.approx(1500e-6)
        powercap.set("intel-rapl:0", 400_500)
        assert joules(meter)["cpu-package-0"] == pytest.approx(0.4015)
        powercap.set("intel-rapl:0", 100_500)
        assert joules(meter)["cpu-package-0"] == pytest.approx(1.1015)


def test_the_poller_catches_the_wraps_of_a_window_that_nobody_reads_in(powercap):
    powercap.zone("intel-rapl:0", "package-0", uj=0, range_uj=40_000_000)
    with RaplMeter(powercap.root) as meter:
        for step in range(1, 9):
            powercap.set("intel-rapl:0", step * 15_000_000 % 40_000_001)
            time.sleep(0.06)
        assert joules(meter)["cpu-package-0"] == pytest.approx(120.0)


def test_a_counter_not_read_for_longer_than_a_wrap_is_an_error(powercap):
    powercap.zone("intel-rapl:0", "package-0")
    now = [1000.0]
    with RaplMeter(powercap.root, clock=lambda: now[0]) as meter:
        now[0] += 300.0
        powercap.add("intel-rapl:0", 5_000_000)
        (reading,) = meter.read()
        assert "wrapped unseen" in reading.error


def test_a_counter_that_is_reset_is_neither_a_wrap_nor_a_zero(powercap):
    powercap.zone("intel-rapl:0", "package-0", uj=90_000_000_000)
    with RaplMeter(powercap.root) as meter:
        (before,) = meter.read()
        powercap.set("intel-rapl:0", 1_000)
        assert "jumped" in errors(meter)["cpu-package-0"]
        powercap.add("intel-rapl:0", 2_000_000)
        (after,) = meter.read()
    assert (before.epoch, after.epoch) == (0, 1)
    assert "jumped" in after.lost
    assert after.energy_j - before.energy_j == pytest.approx(2.0)


def test_without_a_range_a_counter_that_goes_back_is_an_error(powercap):
    powercap.zone("intel-rapl:0", "package-0", uj=500, range_uj=0)
    with RaplMeter(powercap.root) as meter:
        powercap.set("intel-rapl:0", 400)
        assert "went back" in errors(meter)["cpu-package-0"]


@pytest.mark.parametrize("content", ["", "-1", "nan", "unavailable"])
def test_what_is_not_a_number_is_an_error_and_passes(server, content):
    with RaplMeter(server.root) as meter:
        server.set("intel-rapl:1", content)
        assert list(errors(meter)) == ["cpu-package-1"]
        server.set("intel-rapl:1", 10_000_000 + 4_000_000)
        assert joules(meter)["cpu-package-1"] == pytest.approx(4.0)


def test_a_counter_that_vanishes_is_an_error_and_the_others_go_on(server):
    with RaplMeter(server.root) as meter:
        server.file("intel-rapl:0").unlink()
        server.add("intel-rapl:1", 1_000_000)
        assert "no such file" in errors(meter)["cpu-package-0"]
        assert joules(meter)["cpu-package-1"] == pytest.approx(1.0)


def test_a_counter_that_freezes_stays_where_it_is(server):
    with RaplMeter(server.root) as meter:
        assert joules(meter) == joules(meter) == dict.fromkeys(joules(meter), 0.0)


def test_starting_anew_counts_from_zero(server):
    meter = RaplMeter(server.root)
    with meter:
        server.add("intel-rapl:0", 3_000_000)
        assert joules(meter)["cpu-package-0"] == pytest.approx(3.0)
    meter.stop()
    with meter:
        assert joules(meter)["cpu-package-0"] == 0.0
