"""The command line answers wrong input in one line with the right exit code, and writes nothing."""

import os
import signal
import time

import pytest

from ttq_energy import cli
from ttq_energy.cli import COMMANDS, main

STUDY = """\
name: tiny
models: [{name: resnet20, options: {num_classes: 10, in_channels: 1}, dataset: digits}]
training: {epochs: 1}
variants: [fp32, ttq]
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys, *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    return code, capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"ttq-energy {command}" in capsys.readouterr().out


def test_no_command_and_wrong_command(capsys):
    assert told(capsys) == (
        2,
        "ttq-energy: the following arguments are required: COMMAND (see 'ttq-energy --help')\n",
    )
    code, error = told(capsys, "profil")
    assert code == 2
    assert "unknown command 'profil'; did you mean 'profile'?" in error
    code, error = told(capsys, "report", "x", "--format", "dpf")
    assert code == 2
    assert "--format: unknown value 'dpf'; did you mean 'pdf'? valid: csv, html" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs: 1", "epoch: 1"), "did you mean 'epochs'?"),
        (("epochs: 1", "epochs: -1"), "training.epochs: must be at least 0"),
        (("fp32, ttq", "fp32, tttq"), "unknown variant 'tttq'; did you mean 'ttq'?"),
        (("name: resnet20", "name: resnet21"), "did you mean 'resnet20'?"),
        (("dataset: digits", "dataset: digit"), "did you mean 'digits'?"),
        (("variants", "targets: [eyeris-v1]\nvariants"), "did you mean 'eyeriss-v1'?"),
        (("variants", "measurement: {batch_sizes: [0]}\nvariants"), "batch_sizes[0]: must be"),
        (("variants", "measurement: {device: gpu}\nvariants"), "unknown device 'gpu'"),
        (("in_channels: 1", "in_channels: 3"), "does not take the examples of data set 'digits'"),
        (("in_channels", "in_chanels"), "did you mean 'in_channels'?"),
        (("dataset: digits", "dataset: digits, checkpoint: no.safetensors"), "no.safetensors"),
        (("dataset: digits", "dataset: digits, checkpoint: study.yaml"), "study.yaml"),
        (
            ("fp32, ttq", "fp32, {name: t, quantizer: {type: TTQ, treshold: 1}}"),
            "did you mean 'threshold'?",
        ),
        (
            ("fp32, ttq", "fp32, {name: t, quantizer: {type: TTQQ}}"),
            "did you mean 'TTQ'?",
        ),
    ],
)
@pytest.mark.parametrize("command", ["profile", "train"])
def test_mistakes_in_a_study(change, message, command, empty_folder, capsys):
    assert change[0] in STUDY
    (empty_folder / "study.yaml").write_text(STUDY.replace(*change, 1))
    code, error = told(capsys, command, "study.yaml")
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert os.listdir(empty_folder) == ["study.yaml"]


def test_missing_empty_and_foreign_studies(empty_folder, capsys):
    (empty_folder / "empty.yaml").write_text("")
    for study, message in (
        ("absent.yaml", "absent.yaml: no such study"),
        ("empty.yaml", "empty.yaml: the study is empty"),
        (".", "is a directory"),
    ):
        code, error = told(capsys, "profile", study)
        assert code == 2
        assert message in error
    assert os.listdir(empty_folder) == ["empty.yaml"]


def test_a_sensor_asked_for_by_name_that_is_not_there(empty_folder, capsys, monkeypatch):
    (empty_folder / "study.yaml").write_text(STUDY + "measurement: {meters: [rapl]}\n")
    if os.path.exists("/sys/class/powercap/intel-rapl:0"):
        pytest.skip("this machine has RAPL")
    code, error = told(capsys, "profile", "study.yaml")
    assert code == 3
    assert "rapl" in error
    assert os.listdir(empty_folder) == ["study.yaml"]


def test_an_unknown_meter(empty_folder, capsys):
    (empty_folder / "study.yaml").write_text(STUDY + "measurement: {meters: [rapel]}\n")
    code, error = told(capsys, "profile", "study.yaml")
    assert code == 2
    assert "did you mean 'rapl'?" in error


def test_places_that_cannot_be_written(empty_folder, capsys):
    (empty_folder / "study.yaml").write_text(STUDY)
    (empty_folder / "file").write_text("")
    code, error = told(capsys, "profile", "study.yaml", "--out", "file")
    assert code == 2
    assert "a file is in the way" in error
    code, error = told(capsys, "profile", "study.yaml", "--resume")
    assert code == 2
    assert "no unfinished run of 'tiny'" in error
    code, error = told(capsys, "profile", "study.yaml", "--resume", "--out", "absent")
    assert code == 2
    assert "absent: no such run folder" in error


@pytest.mark.parametrize("setting", ["training.epochs", "=3", "training..epochs=1"])
def test_malformed_settings(setting, empty_folder, capsys):
    (empty_folder / "study.yaml").write_text(STUDY)
    code, error = told(capsys, "profile", "study.yaml", "--set", setting)
    assert code == 2
    assert "--set" in error or "study.yaml" in error
    assert error.count("\n") == 1


def test_interrupt_gives_130(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ttq_energy.cli.models.run", interrupted)
    assert told(capsys, "models") == (130, "ttq-energy: interrupted\n")


class Command:
    """Stands for a command module."""

    def __init__(self, run):
        self.run = run


@pytest.fixture
def signals_as_in_a_terminal():
    """What started the tests may have had them ignore signals, as nohup and background jobs do."""
    handlers = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_as_in_a_terminal")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_command_as_ctrl_c_does(number, code, monkeypatch, capsys):
    def run(options):
        os.kill(os.getpid(), number)
        time.sleep(10)

    parser = cli.build_parser()
    monkeypatch.setattr(cli, "build_parser", lambda: parser)
    monkeypatch.setattr(cli, "_load", lambda command: Command(run))
    before = signal.getsignal(number)
    assert told(capsys, "profile", "x")[0] == code
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "writing the output: No space left on device"),
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device"),
        (MemoryError(), "out of memory in 'profile'"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory in 'profile'"),
    ],
)
def test_what_the_machine_refuses_is_one_line(error, message, monkeypatch, capsys):
    def run(options):
        raise error

    parser = cli.build_parser()
    monkeypatch.setattr(cli, "build_parser", lambda: parser)
    monkeypatch.setattr(cli, "_load", lambda command: Command(run))
    assert told(capsys, "profile", "x") == (2, f"ttq-energy: {message}\n")
