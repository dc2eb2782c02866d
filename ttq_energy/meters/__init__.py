"""Meters: one sensor a file, all with one interface; imports without torch."""

from ttq_energy.meters.amd_gpu import AmdGpuMeter
from ttq_energy.meters.apple import AppleMeter
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading, SensorStatus
from ttq_energy.meters.codecarbon import CodeCarbonMeter
from ttq_energy.meters.hwmon import HwmonMeter
from ttq_energy.meters.nvml import NvmlMeter
from ttq_energy.meters.pyrapl import PyRaplMeter
from ttq_energy.meters.rapl import RaplMeter
from ttq_energy.meters.rapl_perf import RaplPerfMeter
from ttq_energy.meters.registry import METERS, available_meters, make_meter, probe_all

__all__ = [
    "METERS",
    "AmdGpuMeter",
    "AppleMeter",
    "CodeCarbonMeter",
    "Domain",
    "HwmonMeter",
    "Meter",
    "NvmlMeter",
    "Provenance",
    "PyRaplMeter",
    "RaplMeter",
    "RaplPerfMeter",
    "Reading",
    "SensorStatus",
    "available_meters",
    "make_meter",
    "probe_all",
]
