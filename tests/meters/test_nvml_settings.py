"""Which settings of a GPU are told, and that a GPU at its defaults is silent."""

from types import SimpleNamespace

import pytest

from ttq_energy.meters.nvml_settings import gpu_settings, settings_of


class NVMLError(Exception):
    pass


def unsupported(*_):
    raise NVMLError("not supported")


def board(**answers):
    usual = {
        "nvmlDeviceGetPersistenceMode": 1,
        "nvmlDeviceGetEnforcedPowerLimit": 700_000,
        "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
        "nvmlDeviceGetApplicationsClock": 1980,
        "nvmlDeviceGetDefaultApplicationsClock": 1980,
        "nvmlDeviceGetEccMode": [1, 1],
        "nvmlDeviceGetMigMode": [0, 0],
        "nvmlDeviceGetVirtualizationMode": 0,
        **answers,
    }
    calls = {
        name: value if callable(value) else lambda *_, value=value: value
        for name, value in usual.items()
    }
    return SimpleNamespace(NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, **calls)


def test_a_gpu_at_its_defaults_is_silent():
    assert settings_of(board(), None) == []


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"nvmlDeviceGetPersistenceMode": 0}, "persistence mode is off"),
        ({"nvmlDeviceGetEnforcedPowerLimit": 500_000}, "limit is 500 W, not the board's 700 W"),
        (
            {"nvmlDeviceGetApplicationsClock": lambda _, kind: 1200 if kind == 1 else 1980},
            "SM application clock is 1200 MHz, not the default 1980 MHz",
        ),
        ({"nvmlDeviceGetEccMode": [0, 0]}, "ECC is off"),
        ({"nvmlDeviceGetEccMode": [1, 0]}, "next reboot"),
        ({"nvmlDeviceGetMigMode": [1, 1]}, "MIG is on"),
        ({"nvmlDeviceGetVirtualizationMode": 2}, "virtual GPUs"),
    ],
)
def test_each_setting_is_told(answers, told):
    (sentence,) = settings_of(board(**answers), None)
    assert told in sentence


def test_what_a_board_does_not_tell_is_passed_over():
    names = [name for name in vars(board()) if name.startswith("nvmlDevice")]
    assert settings_of(board(**dict.fromkeys(names, unsupported)), None) == []


def test_a_real_session_names_the_gpu(boards):
    boards.script("gpu 9 NVIDIA H100 80GB HBM3\nmig\npower 0 100\npower 1000 100\n")
    assert gpu_settings() == [
        "GPU 0 (NVIDIA H100 80GB HBM3): MIG is on: the energy is that of the whole board, all "
        "instances together"
    ]
