"""``ttq-energy sensors``: what is readable, why not, and the command that helps."""

import json
import os
import subprocess
import sys

import pytest

from ttq_energy.cli import main
from ttq_energy.meters import Provenance, SensorStatus

COMMAND = "sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj"
CLOSED = SensorStatus(
    "rapl",
    True,
    False,
    Provenance.COUNTER,
    "cpu-package-0, dram-0",
    "/sys/class/powercap/intel-rapl:0/energy_uj: permission denied",
    COMMAND,
)
OPEN = SensorStatus(
    "nvml",
    True,
    True,
    Provenance.COUNTER,
    "gpu-0 (NVIDIA A100)",
    update_period_s=0.1004,
    resolution_j=0.001,
)
MODEL = SensorStatus("codecarbon", True, True, Provenance.MODELLED, "a model of the load")


@pytest.fixture
def told(monkeypatch, capsys):
    """What the command prints on a machine with these sensors."""

    def tell(*statuses, options=()):
        monkeypatch.setattr("ttq_energy.meters.probe_all", lambda: list(statuses))
        monkeypatch.setattr("ttq_energy.cli.sensors._kernels", lambda: "avx512vnni")
        assert main(["sensors", *options]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return tell


def test_a_closed_sensor_says_why_and_the_command(told):
    text = told(CLOSED, MODEL)
    assert "rapl: not readable, counter\n" in text
    assert "    covers: cpu-package-0, dram-0\n" in text
    assert "permission denied\n" in text
    assert f"    to make it readable: {COMMAND}\n" in text


def test_a_readable_sensor_tells_its_period_and_resolution(told):
    text = told(OPEN)
    assert "nvml: readable, counter, updates every 100 ms, resolves 1 mJ\n" in text
    assert "Readable here: nvml." in text


def test_without_a_sensor_it_says_that_nothing_is_measured(told):
    text = told(CLOSED, MODEL)
    assert "No energy sensor is readable here (looked for rapl)" in text
    assert "Joules will come from a model (codecarbon) and say 'modelled'" in text
    assert "Readable here" not in text


def test_without_anything_at_all(told):
    text = told(CLOSED)
    assert "No energy sensor is readable here" in text
    assert "model" not in text


def test_it_names_the_kernels_instruction_set(told):
    assert "Kernels: avx512vnni\n" in told(OPEN)


def test_json(told):
    found = json.loads(told(CLOSED, OPEN, options=["--json"]))
    assert [sensor["name"] for sensor in found["sensors"]] == ["rapl", "nvml"]
    assert found["sensors"][0]["remedy"] == COMMAND
    assert found["sensors"][1]["provenance"] == "counter"
    assert found["sensors"][1]["update_period_s"] == 0.1004
    assert found["kernels"]


def test_in_a_terminal_the_command_can_be_copied_whole(told, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    text = told(CLOSED, OPEN)
    assert f"    rapl: {COMMAND}\n" in text
    assert "100 ms" in text


def test_this_machine_answers_whatever_it_has():
    done = subprocess.run(
        [sys.executable, "-m", "ttq_energy.cli", "sensors"],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "rapl: " in done.stdout
    assert "\nKernels: " in done.stdout
