"""Energy from recorded NVML readings beside an external meter.

    python benchmarks/power_traces.py FOLDER

FOLDER holds ``<board>_nvml.csv.gz``, ``<board>_meter.csv.gz`` and ``<board>_marks.csv`` as in the
public recordings of arXiv 2312.02741: times in s, powers in W, the load between the first two
distinct marks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from ttq_energy.measurement import energy_from_power, nvml_sensor

READINGS = {
    "power_draw_w": "power.draw",
    "power_average_w": "power.draw.average",
    "power_instant_w": "power.draw.instant",
}


def main() -> None:
    """Print one line a board and reading."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="the recordings")
    parser.add_argument("--driver", default="535.54.03", help="the driver that recorded them")
    arguments = parser.parse_args()
    print(
        "board            reading              meter_j  plain  energy_j  interval_j"
        "          meter/energy  alone +-%"
    )
    for file in sorted(arguments.folder.glob("*_nvml.csv.gz")):
        stem = file.name.removesuffix("_nvml.csv.gz")
        board = stem.removesuffix("_steps")
        nvml = pd.read_csv(file)
        meter = pd.read_csv(file.with_name(f"{stem}_meter.csv.gz"))
        start, end = np.unique(pd.read_csv(file.with_name(f"{stem}_marks.csv")).t_s)[:2]
        inside = meter[(meter.t_s >= start) & (meter.t_s <= end)]
        true = float(np.trapezoid(inside.power_w, inside.t_s))
        for column, reading in READINGS.items():
            if column not in nvml:
                continue
            sensor = nvml_sensor(board, arguments.driver, reading)
            found = energy_from_power(nvml.t_s, nvml[column], start, end, sensor)
            grid = np.linspace(start, end, 10_001)
            plain = float(np.trapezoid(np.interp(grid, nvml.t_s, nvml[column]), grid))
            alone = 100 * (found.relative_high_j / found.energy_j - 1)
            print(
                f"{board:16s} {reading:19s} {true:8.1f} {plain / true:6.3f} {found.energy_j:9.1f}"
                f"  [{found.low_j:7.1f}, {found.high_j:7.1f}]  {true / found.energy_j:12.3f}"
                f" {alone:10.1f}"
            )


if __name__ == "__main__":
    main()
