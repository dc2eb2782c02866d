"""The record of the machine: what is there, None for what is not, and nobody's names."""

import getpass
import json
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ttq_energy import environment

CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512_vnni amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8480+
"""


@pytest.fixture
def root(tmp_path):
    """A machine of two cores with two threads each, written as Linux shows one."""

    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    write("proc/cpuinfo", CPUINFO)
    write("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB")
    write("proc/sys/kernel/osrelease", "6.1.0-18-amd64")
    write("etc/os-release", 'NAME="Debian GNU/Linux"\nVERSION_ID="12"')
    for cpu in range(4):
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        write(f"{folder}/topology/physical_package_id", "0")
        write(f"{folder}/topology/core_id", cpu % 2)
        write(f"{folder}/cpufreq/scaling_governor", "powersave")
        write(f"{folder}/cpufreq/scaling_driver", "intel_pstate")
    limits = {"cpuinfo_min": 800000, "cpuinfo_max": 3800000, "scaling_max": 2000000}
    for name, khz in limits.items():
        write(f"sys/devices/system/cpu/cpu0/cpufreq/{name}_freq", khz)
    cache = "sys/devices/system/cpu/cpu0/cache"
    for index, (level, kind, size, cpus) in enumerate(
        [(1, "Data", "48K", "0,2"), (1, "Instruction", "32K", "0,2"), (3, "Unified", "105M", "0-3")]
    ):
        write(f"{cache}/index{index}/level", level)
        write(f"{cache}/index{index}/type", kind)
        write(f"{cache}/index{index}/size", size)
        write(f"{cache}/index{index}/shared_cpu_list", cpus)
    write("sys/devices/system/cpu/smt/active", "1")
    write("sys/devices/system/cpu/intel_pstate/no_turbo", "0")
    write("sys/devices/system/node/node0/cpulist", "0-3")
    write("sys/fs/cgroup/cpu.max", "150000 100000")
    return SimpleNamespace(path=tmp_path, write=write)


def machine(root):
    return environment.describe(root=root.path)["machine"]


def test_a_machine_that_tells_everything(root):
    found = machine(root)
    assert found["cpu_model"] == "Intel(R) Xeon(R) Platinum 8480+"
    assert (found["sockets"], found["physical_cores"], found["logical_cores"]) == (1, 2, 4)
    assert found["smt"] is True
    assert found["numa_nodes"] == 1
    assert found["memory_bytes"] == 16384 * 1024
    assert found["isa"] == ["sse4_2", "avx", "fma", "avx2", "avx512f", "avx512_vnni", "amx_int8"]
    assert found["governor"] == "powersave"
    assert found["frequency_driver"] == "intel_pstate"
    assert found["frequency_limits_hz"] == {
        "cpuinfo_min": 800_000_000,
        "cpuinfo_max": 3_800_000_000,
        "scaling_min": None,
        "scaling_max": 2_000_000_000,
    }
    assert found["turbo"] is True
    assert found["cpu_quota_cores"] == 1.5
    assert found["caches"] == [
        {"level": 1, "kind": "data", "bytes": 48 << 10, "shared_by_cpus": 2},
        {"level": 1, "kind": "instruction", "bytes": 32 << 10, "shared_by_cpus": 2},
        {"level": 3, "kind": "unified", "bytes": 105 << 20, "shared_by_cpus": 4},
    ]


def test_the_operating_system(root):
    found = environment.describe(root=root.path)["os"]
    assert found == {"name": "Debian GNU/Linux", "version": "12", "kernel": "6.1.0-18-amd64"}


def test_a_machine_that_tells_nothing_has_only_nulls(tmp_path):
    found = environment.describe(root=tmp_path)["machine"]
    known = {"architecture", "logical_cores", "usable_cores", "load_average"}
    if sys.platform == "darwin":
        known.add("cpu_model")
    assert {key: value for key, value in found.items() if key not in known} == dict.fromkeys(
        set(found) - known
    )


def test_turbo_of_intel_and_of_other_drivers(root):
    root.write("sys/devices/system/cpu/intel_pstate/no_turbo", "1")
    assert machine(root)["turbo"] is False
    (root.path / "sys/devices/system/cpu/intel_pstate/no_turbo").unlink()
    assert machine(root)["turbo"] is None
    root.write("sys/devices/system/cpu/cpufreq/boost", "1")
    assert machine(root)["turbo"] is True
    root.write("sys/devices/system/cpu/cpufreq/boost", "?")
    assert machine(root)["turbo"] is None


def test_governors_that_differ_are_all_named(root):
    root.write("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "performance")
    assert machine(root)["governor"] == "performance, powersave"


def test_an_unlimited_control_group_has_no_quota(root):
    root.write("sys/fs/cgroup/cpu.max", "max 100000")
    assert machine(root)["cpu_quota_cores"] is None


def test_virtual_machines_and_containers_are_seen(root):
    assert machine(root)["container"] is None
    root.write("proc/1/cgroup", "0::/kubepods/besteffort/pod1")
    assert machine(root)["container"] == "kubepods"
    root.write(".dockerenv", "")
    assert machine(root)["container"] == "docker"
    root.write("proc/cpuinfo", CPUINFO.replace("fpu", "fpu hypervisor"))
    assert machine(root)["virtualization"] == "hypervisor"
    root.write("sys/class/dmi/id/sys_vendor", "QEMU")
    assert machine(root)["virtualization"] == "hypervisor (QEMU)"
    root.write("proc/sys/kernel/osrelease", "5.15.1-microsoft-standard-WSL2")
    assert machine(root)["virtualization"] == "wsl"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86 flags")
def test_a_real_machine_is_told_from_one_that_does_not_say(root):
    assert machine(root)["virtualization"] == "none"


def test_arm_processors_are_named_by_their_parts(root):
    root.write(
        "proc/cpuinfo",
        "Features\t: fp asimd asimddp i8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd40",
    )
    found = machine(root)
    assert found["cpu_model"] == "Arm implementer 0x41 part 0xd40"
    assert found["isa"] == ["asimd", "asimddp", "i8mm"]


def test_this_machine_goes_to_json_without_names():
    described = environment.describe(["/home/someone/venv/bin/ttq-energy", "profile", "a.yaml"])
    text = json.dumps(described)
    assert platform.node() not in text or len(platform.node()) < 3
    assert f"/{getpass.getuser()}" not in text
    assert described["command"] == ["ttq-energy", "profile", "a.yaml"]
    assert described["packages"]["numpy"]
    assert described["packages"]["ttq-energy"]


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/usr/bin/ttq-energy", "ttq-energy"),
        ("--out=/home/me/runs/x", "--out=x"),
        ("models.0.dataset.options.root=/data/cifar", "models.0.dataset.options.root=cifar"),
        ("~/study.yaml", "study.yaml"),
        ("~me/study.yaml", "study.yaml"),
        ("runs/a", "runs/a"),
        ("../b.yaml", "../b.yaml"),
        ("timm:resnet18", "timm:resnet18"),
        ("[/a/b, /c/d]", "[b, d]"),
    ],
)
def test_folders_are_cut_from_the_command(word, shown):
    assert environment.without_folders(word) == shown


def test_no_command_is_null():
    assert environment.describe()["command"] is None


# -- GPUs -----------------------------------------------------------------------------------------


class FakeNvml:
    """Answers as the driver's library does; what it does not define raises, as unsupported."""

    def __init__(self, broken=False):
        self.broken, self.shut = broken, 0

    def nvmlInit(self):
        if self.broken:
            raise RuntimeError("no driver")

    def nvmlShutdown(self):
        self.shut += 1

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return b"NVIDIA A100-PCIE-40GB"

    def nvmlSystemGetDriverVersion(self):
        return "535.54.03"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=40 << 30)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return 250_000


def test_gpus_as_the_driver_tells(monkeypatch):
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert environment.describe()["gpus"] == [
        {
            "index": 0,
            "name": "NVIDIA A100-PCIE-40GB",
            "driver": "535.54.03",
            "memory_bytes": 40 << 30,
            "power_limit_w": 250.0,
            "default_power_limit_w": None,
        }
    ]
    assert nvml.shut == 1


@pytest.mark.parametrize("module", [None, FakeNvml(broken=True)])
def test_no_driver_is_null_and_never_an_error(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert environment.describe()["gpus"] is None


def test_torch_is_asked_only_where_it_is_loaded():
    script = (
        "import sys; from ttq_energy import environment; d = environment.describe(); "
        "assert 'torch' not in sys.modules; assert d['threads']['torch'] is None"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    torch = pytest.importorskip("torch")
    assert environment.describe()["threads"]["torch"] == torch.get_num_threads()
