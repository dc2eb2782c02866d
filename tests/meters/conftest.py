"""Powercap trees as the kernel lays them out, and NVIDIA boards behind a stand-in for NVML."""

import ctypes
import os
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

RANGE_UJ = 262_143_328_850
"""Of an Intel package: 2^32 - 1 steps of 61 uJ."""


class Powercap:
    """Nested zone folders below ``devices`` and flat links to them in ``root``."""

    def __init__(self, folder: Path) -> None:
        self.devices = folder / "devices" / "virtual" / "powercap"
        self.root = folder / "class" / "powercap"
        self.root.mkdir(parents=True)
        self.devices.mkdir(parents=True)

    def zone(self, zone: str, name: str, uj: int = 1_000_000, range_uj: int = RANGE_UJ) -> None:
        control, *_ = zone.split(":")
        parts = zone.split(":")
        folder = self.devices / control
        for depth in range(2, len(parts) + 1):
            folder /= ":".join(parts[:depth])
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (folder / "energy_uj").write_text(f"{uj}\n")
        (folder / "subsystem").symlink_to(self.root)
        for link, target in (
            (self.root / control, self.devices / control),
            (self.root / zone, folder),
        ):
            if not link.exists():
                link.symlink_to(target)

    def file(self, zone: str) -> Path:
        return self.root / zone / "energy_uj"

    def set(self, zone: str, uj: int | str) -> None:
        self.file(zone).write_text(f"{uj}\n")

    def add(self, zone: str, uj: int) -> None:
        self.set(zone, int(self.file(zone).read_text()) + uj)


@pytest.fixture
def powercap(tmp_path):
    return Powercap(tmp_path / "sys")


@pytest.fixture
def server(powercap):
    """Two sockets with memory; the MMIO interface shows the first package once more."""
    for socket in (0, 1):
        powercap.zone(f"intel-rapl:{socket}", f"package-{socket}", uj=5_000_000 * (socket + 1))
        powercap.zone(f"intel-rapl:{socket}:0", "dram", uj=700_000, range_uj=65_712_999_613)
    powercap.zone("intel-rapl-mmio:0", "package-0")
    return powercap


@pytest.fixture
def client(powercap):
    """A laptop: one package with its parts, and psys."""
    powercap.zone("intel-rapl:0", "package-0")
    powercap.zone("intel-rapl:0:0", "core")
    powercap.zone("intel-rapl:0:1", "uncore")
    powercap.zone("intel-rapl:1", "psys")
    powercap.zone("intel-rapl-mmio:0", "package-0")
    return powercap


@pytest.fixture
def root_only(monkeypatch):
    """Make every ``energy_uj`` answer as it does to an ordinary user since Linux 5.10."""
    real = os.open

    def guarded(path, flags, *arguments, **options):
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr("ttq_energy.meters.rapl.os.open", guarded)


# -- NVIDIA boards --------------------------------------------------------------------------------

AMPERE, VOLTA, HOPPER = 7, 5, 9


@pytest.fixture(scope="session")
def stub_nvml_library(tmp_path_factory):
    """The stand-in for NVML, compiled once."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    library = folder / "libnvidia-ml.so.1"
    source = Path(__file__).parent / "stub_nvml.c"
    command = [
        compiler,
        "-O1",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Werror",
        "-o",
        library,
        source,
        "-lm",
    ]
    subprocess.run(command, check=True)
    return library


class Boards:
    """Scripted NVIDIA boards behind the real pynvml, and their clock."""

    def __init__(self, library: Path, script: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.stub_set_time.argtypes = [ctypes.c_double]
        self._script = script
        self.now = 100.0

    def script(self, text: str, driver: str = "535.54.03") -> None:
        self._script.write_text(f"driver {driver}\n{textwrap.dedent(text)}")

    def at(self, t_s: float) -> None:
        """Stop the boards' clock and the meter's at a time."""
        self.now = t_s
        self._library.stub_set_time(t_s)

    def run(self) -> None:
        """Let the boards follow the real clock."""
        self._library.stub_set_time(float("nan"))

    def clock(self) -> float:
        return self.now

    @property
    def open_sessions(self) -> int:
        return int(self._library.stub_open_sessions())


@pytest.fixture
def boards(stub_nvml_library, tmp_path, monkeypatch):
    """Scripted boards; also for processes that the test starts."""
    import pynvml

    monkeypatch.setattr(pynvml, "CDLL", lambda name: ctypes.CDLL(str(stub_nvml_library)))
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setenv("STUB_NVML", str(tmp_path / "boards.txt"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(stub_nvml_library.parent))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("ttq_energy.meters.nvml.SPOT_LIMIT_S", 0.01)
    boards = Boards(stub_nvml_library, tmp_path / "boards.txt")
    boards.at(100.0)
    yield boards
    boards.run()
