"""``ttq-energy measure``: a command's energy, its output and exit code untouched."""

import json
import os
import signal
import sys
import time

import pytest

from ttq_energy.cli import main
from ttq_energy.cli._command_energy import Quantity, command_energies
from ttq_energy.cli.measure import _interval
from ttq_energy.measurement.energy import DomainEnergy, combine, unresolved
from ttq_energy.measurement.idle import IdleWindow
from ttq_energy.meters import Domain, Meter, Provenance, Reading, SensorStatus


class Engine(Meter):
    """A counter of exactly 10 W."""

    name = "engine"
    provenance = Provenance.COUNTER

    @property
    def domains(self):
        return (Domain("engine", "cpu", self.provenance, "the engine", update_period_s=0.001),)

    def start(self):
        self.began = time.monotonic()

    def read(self):
        now = time.monotonic()
        return [Reading("engine", now, energy_j=10.0 * (now - self.began))]

    def stop(self): ...

    @classmethod
    def probe(cls):
        return SensorStatus("engine", True, True, cls.provenance)


class Model(Engine):
    provenance = Provenance.MODELLED


@pytest.fixture
def measured(monkeypatch, capfd):
    """Run the command with the engine as the only meter; gives exit code, output and report."""

    def run(*arguments, meters=(Engine,)):
        monkeypatch.setattr("ttq_energy.meters.available_meters", lambda: [m() for m in meters])
        code = main(["measure", "--idle", "0.1", *arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def python(code):
    return "--", sys.executable, "-c", code


def test_energy_beside_the_idle_machine(measured, tmp_path):
    file = tmp_path / "figures.json"
    code, out, report = measured(
        "--json", str(file), *python("import time; print('hello'); time.sleep(0.3)")
    )
    assert (code, out) == (0, "hello\n")
    assert "engine, hardware counter" in report
    assert "the engine" in report
    found = json.loads(file.read_text())
    (domain,) = found["domains"]
    (duration_s,) = found["duration_s"]
    assert domain["gross_j"]["low"] <= 10.0 * duration_s <= domain["gross_j"]["high"]
    assert domain["idle_w"]["low"] <= 10.0 <= domain["idle_w"]["high"]
    assert domain["net_j"]["low"] <= 0.0 <= domain["net_j"]["high"]
    assert domain["provenance"] == "counter"


def test_modelled_joules_are_called_that(measured):
    _, _, report = measured(*python("import time; time.sleep(0.05)"), meters=[Model])
    assert "engine, MODELLED, not measured" in report
    assert "MODELLED joules are computed from the load, not measured" in report


def test_without_any_meter_the_time_is_still_told(measured):
    code, _, report = measured(*python("pass"), meters=[])
    assert code == 0
    assert "duration" in report
    assert "no sensor" in report


@pytest.mark.parametrize("status", [0, 1, 2, 3, 77])
def test_the_exit_code_is_the_commands(measured, status):
    code, _, report = measured(*python(f"raise SystemExit({status})"))
    assert code == status
    assert "ttq-energy:" not in report
    assert (f"exit code {status}" in report) == (status != 0)


def test_a_command_that_a_signal_ends(measured):
    code, _, report = measured(*python("import os; os.kill(os.getpid(), 15)"))
    assert code == 128 + signal.SIGTERM
    assert "gross" in report


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal, also where the tests themselves run with it ignored (nohup)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupting_the_command_still_reports_it(measured):
    code, _, report = measured(
        *python("import os, signal; os.kill(os.getppid(), 2); os.kill(os.getpid(), 2)")
    )
    assert code in (1, 128 + signal.SIGINT)
    assert "gross" in report
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_to_the_measuring_process_ends_the_command(measured):
    began = time.monotonic()
    code, _, report = measured(
        *python("import os, time; os.kill(os.getppid(), 15); time.sleep(60)")
    )
    assert code == 128 + signal.SIGTERM
    assert "gross" in report
    assert time.monotonic() - began < 50


def test_it_is_repeated_until_it_fails(measured, tmp_path):
    add = f"open({str(tmp_path / 'runs')!r}, 'a').write('x')"
    assert measured("--repeat", "3", *python(add))[0] == 0
    assert (tmp_path / "runs").read_text() == "xxx"
    code, _, report = measured("--repeat", "3", *python(f"{add}; raise SystemExit(4)"))
    assert code == 4
    assert (tmp_path / "runs").read_text() == "xxxx"
    assert "mean of" not in report
    assert "1 of 3 runs were made: the last one failed with exit code 4" in report


@pytest.mark.parametrize(("status", "made"), [(0, 2), (7, 1)])
def test_how_many_of_the_runs_were_made_is_recorded(measured, tmp_path, status, made):
    file = tmp_path / "figures.json"
    _, _, report = measured(
        "--repeat", "2", "--json", str(file), *python(f"raise SystemExit({status})")
    )
    found = json.loads(file.read_text())
    assert (found["runs_asked"], found["runs_made"]) == (2, made)
    assert found["exit_code"] == status
    assert len(found["duration_s"]) == made
    assert ("runs were made" in report) == (made < 2)


def test_its_own_options_end_at_the_dashes(measured):
    _, out, _ = measured(*python("import sys; print(sys.argv[1:])"), "--idle", "x", "--", "-h")
    assert out == "['--idle', 'x', '--', '-h']\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a command after '--'"),
        (["--"], "expected a command after '--'"),
        (["--", "no-such-command"], "command not found: 'no-such-command'"),
        (["--", "./data.txt"], "'./data.txt' is not an executable file"),
        (["--idle", "-1", "--", "true"], "--idle: expected seconds of at least 0, got -1"),
        (["--idle", "nan", "--", "true"], "--idle: expected seconds"),
        (["--repeat", "0", "--", "true"], "--repeat: must be at least 1, got 0"),
        (["--meter", "rapel", "--", "true"], "did you mean 'rapl'?"),
        (["--json", "absent/f.json", "--", "true"], "absent/f.json: cannot write here"),
    ],
)
def test_wrong_input_is_one_line_and_runs_nothing(arguments, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.txt").write_text("")
    assert main(["measure", *arguments]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.startswith("ttq-energy: ")
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == ["data.txt"]


def test_a_sensor_that_is_not_there(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("ttq_energy.meters.rapl.find_zones", lambda root: [])
    assert main(["measure", "--meter", "rapl", "--", "touch", str(tmp_path / "ran")]) == 3
    assert "rapl: no RAPL zone" in capfd.readouterr().err
    assert os.listdir(tmp_path) == []


# -- the figures ----------------------------------------------------------------------------------


class Span:
    """A window that has ended."""

    def __init__(self, start_s, end_s, *domains):
        self.start_s, self.end_s, self.duration_s = start_s, end_s, end_s - start_s
        self.energy = combine("x", self.duration_s, {d.domain: d for d in domains})


def joules(name, energy_j, half_j=0.0, additive=True, seconds=2.0):
    return DomainEnergy(
        name,
        seconds,
        energy_j,
        energy_j - half_j,
        energy_j + half_j,
        Provenance.COUNTER,
        "meter",
        name,
        additive,
        relative_low_j=energy_j - half_j,
        relative_high_j=energy_j + half_j,
    )


def idle(start_s, *domains):
    span = Span(start_s, start_s + 2.0, *domains)
    return IdleWindow(span.start_s, span.end_s, span.energy)


def test_net_is_gross_less_idle_power_times_duration():
    runs = [Span(2.0, 4.0, joules("cpu", 100.0, 1.0))]
    (row,) = command_energies(
        runs, [idle(0.0, joules("cpu", 20.0)), idle(4.0, joules("cpu", 20.0))]
    )
    assert row.gross_j == Quantity(100.0, 99.0, 101.0)
    assert row.idle_w.value == pytest.approx(10.0)
    assert row.net_j.value == pytest.approx(80.0)
    assert (row.net_j.low, row.net_j.high) == (pytest.approx(79.0), pytest.approx(81.0))


def test_scatter_of_the_runs_widens_the_interval():
    runs = [Span(4.0 * i, 4.0 * i + 2.0, joules("cpu", e, 0.5)) for i, e in enumerate([9, 10, 11])]
    (row,) = command_energies(runs, [])
    assert row.gross_j.value == 10.0
    half = (0.5**2 + (4.302653 / 3**0.5) ** 2) ** 0.5
    assert row.gross_j.high - 10.0 == pytest.approx(half, rel=1e-6)
    assert row.idle_w is row.net_j is None


def test_the_total_adds_what_may_be_added_and_no_more():
    parts = joules("cpu", 30.0, 1.0), joules("dram", 5.0, 0.5), joules("core", 20.0, additive=False)
    *rows, total = command_energies([Span(0.0, 2.0, *parts)], [idle(2.0, *parts)])
    assert [row.domain for row in rows] == ["cpu", "dram", "core"]
    assert total.gross_j == Quantity(35.0, 33.5, 36.5)
    assert total.net_j.value == pytest.approx(0.0)


def test_an_unresolved_run_gives_no_figure_but_its_reason():
    domain = Domain("cpu", "cpu", Provenance.COUNTER, "cpu")
    short = unresolved(domain, "meter", 0.001, "too short", 0.002)
    (row,) = command_energies([Span(0.0, 2.0, joules("cpu", 3.0)), Span(2.0, 2.001, short)], [])
    assert row.gross_j is None
    assert row.reason == "too short"


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        (Quantity(123.456, 122.9, 124.0), "123.5 J  [122.9, 124.0]"),
        (Quantity(123.456, 100.0, 150.0), "123 J  [100, 150]"),
        (Quantity(0.0123, 0.012, 0.0126), "0.01230 J  [0.01200, 0.01260]"),
    ],
)
def test_figures_show_the_digits_that_their_interval_supports(quantity, text):
    assert _interval(quantity, "J") == text
