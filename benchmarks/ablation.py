"""The table of the ablation study, from its Run.

ttq-energy train ablation --out runs/ablation
python benchmarks/ablation.py runs/ablation
"""

from __future__ import annotations

import argparse

import pandas as pd

import ttq_energy as te
from ttq_energy.training.ablation import summarise


def interval(row: pd.Series, name: str, scale: float, digits: int) -> str:
    """``mean [low, high]``, or a dash where there is none."""
    values = [row[name] * scale, row[f"{name}_low"] * scale, row[f"{name}_high"] * scale]
    if pd.isna(values[0]):
        return "-"
    middle, low, high = (f"{value:+.{digits}f}" for value in values)
    return f"{middle} [{low}, {high}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    table = summarise(te.load_run(parser.parse_args().run).training)
    for model, rows in table.groupby("model", sort=False):
        print(f"\n{model}: accuracy in %, differences in points, 95 % intervals over seeds\n")
        print("| variant | seeds | accuracy | zeros | Wp/Wn | - fp32 | | - ttq | |")
        print("|---|---|---|---|---|---|---|---|---|")
        for _, row in rows.iterrows():
            zeros = "-" if pd.isna(row["zero_fraction"]) else f"{row['zero_fraction']:.0%}"
            cells = [
                row["variant"],
                row["seeds"],
                interval(row, "accuracy", 100, 2).replace("+", ""),
                zeros,
                interval(row, "scale_ratio", 1, 2).replace("+", ""),
                interval(row, "versus_fp32", 100, 2),
                row["verdict_fp32"],
                interval(row, "versus_ttq", 100, 2),
                row["verdict_ttq"],
            ]
            print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
