"""What training gave and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ttq_energy.reporting.formatting import interval, percent, scale_for
from ttq_energy.reporting.frames import each_row
from ttq_energy.reporting.plots.style import (
    COLUMN_IN,
    FULL_IN,
    HATCH,
    INK,
    annotate_value,
    error_bar,
    legend_columns,
    modelled,
    need,
    new_figure,
    short,
    style,
    variant_color,
    variant_marker,
)

if TYPE_CHECKING:
    import pandas as pd

_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def curves(frame: pd.DataFrame, width: float = FULL_IN) -> Figure:
    """Loss and accuracy by epoch, one line a variant: the mean of its seeds, their range shaded.

    Args:
        frame: rows of ``tables.training_curves`` of one model.
        width: of the figure in inches.
    """
    need(frame, "curves", "variant", "epoch", "loss", "accuracy")
    shape = (1, 2) if width > 5 else (2, 1)
    with style():
        figure, (left, right) = new_figure(width, 2.0 * shape[0] + 0.2, *shape)
        for place, (variant, group) in enumerate(frame.groupby("variant", sort=False)):
            color, line = variant_color(str(variant)), _LINES[place % len(_LINES)]
            for axes, column, factor in ((left, "loss", 1.0), (right, "accuracy", 100.0)):
                by_epoch = group.groupby("epoch")[column]
                mean, low, high = (getattr(by_epoch, f)() * factor for f in ("mean", "min", "max"))
                epochs = mean.index.to_numpy(float)
                axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
                (drawn,) = axes.plot(
                    epochs,
                    mean.to_numpy(float),
                    color=color,
                    linestyle=line,
                    marker=variant_marker(str(variant)) if len(epochs) <= 12 else "",
                    markersize=3,
                    label=short(variant),
                )
                unit = " %" if column == "accuracy" else ""
                last = f"{mean.iloc[-1]:.4g}{unit}"
                annotate_value(drawn, f"{variant}: {column} {last} after epoch {epochs[-1]:.0f}")
        left.set_ylabel("training loss")
        left.set_yscale("log" if (frame["loss"] > 0).all() else "linear")
        right.set_ylabel("test accuracy [%]")
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper right", ncols=legend_columns(width, labels)
        )
        return figure


def accuracy_dots(frame: pd.DataFrame, width: float = COLUMN_IN) -> Figure:
    """Accuracy of each variant with its interval.

    Args:
        frame: rows of ``tables.accuracy`` or ``tables.ablation`` of one model.
        width: of the figure in inches.
    """
    need(frame, "accuracy_dots", "variant", "accuracy", "accuracy_low", "accuracy_high")
    with style():
        figure, (axes,) = new_figure(width, 0.6 + 0.21 * len(frame))
        for place, row in enumerate(each_row(frame)):
            x, low, high = (
                100 * float(v) for v in (row.accuracy, row.accuracy_low, row.accuracy_high)
            )
            error_bar(axes, x, -place, low=low, high=high, vertical=False)
            mark = axes.scatter(
                [x],
                [-place],
                s=30,
                color=variant_color(str(row.variant)),
                marker=variant_marker(str(row.variant)),
                zorder=5,
            )
            text = percent(row.accuracy, row.accuracy_low, row.accuracy_high)
            annotate_value(mark, f"{row.variant}: {text}")
        axes.set_yticks([-place for place in range(len(frame))])
        axes.set_yticklabels(list(map(short, frame["variant"])))
        axes.set_ylim(-len(frame) + 0.4, 0.6)
        base = frame[frame["variant"] == "fp32"]
        if len(base):
            axes.axvline(
                float(base["accuracy"].iloc[0]) * 100, color=INK, linewidth=0.8, linestyle=":"
            )
        axes.set_xlabel("test accuracy [%]")
        return figure


def training_bars(frame: pd.DataFrame, width: float = COLUMN_IN) -> Figure:
    """Wall time and, where it was recorded, energy of each variant's training.

    Args:
        frame: rows of ``tables.training_cost`` of one model.
        width: of the figure in inches.
    """
    need(frame, "training_bars", "variant", "wall_s", "energy_j", "energy_low_j", "energy_high_j",
         "provenance")  # fmt: skip
    columns = [("wall_s", "", "s", "training time (timed)")]
    if frame["energy_j"].notna().any():
        how = ", ".join(dict.fromkeys(p for p in frame["provenance"] if p))
        columns.append(("energy_j", how, "J", f"training energy ({how})"))
    shape = (1, len(columns)) if width > 5 else (len(columns), 1)
    with style():
        height = (0.5 + 0.2 * len(frame)) * shape[0] + 0.1
        figure, panels = new_figure(width, height, *shape, sharey=width > 5)
        for axes, (column, how, unit, label) in zip(panels, columns, strict=True):
            scale = scale_for(frame[column], unit)
            for place, row in enumerate(frame.to_dict("records")):
                color, soft = variant_color(row["variant"]), modelled(how)
                value = row[column] * scale.factor
                (patch,) = axes.barh(
                    -place,
                    value,
                    0.66,
                    color="none" if soft else color,
                    edgecolor=color,
                    hatch=HATCH if soft else None,
                    linewidth=0.8,
                )
                low = row["energy_low_j"] * scale.factor if unit == "J" else float("nan")
                high = row["energy_high_j"] * scale.factor if unit == "J" else float("nan")
                error_bar(axes, value, -place, low=low, high=high, vertical=False)
                annotate_value(
                    patch,
                    f"{row['variant']}: {interval(value, low, high)} {scale.unit} "
                    f"({how or 'timed'})",
                )
            axes.set_yticks([-place for place in range(len(frame))])
            axes.set_yticklabels(list(map(short, frame["variant"])))
            axes.set_xlim(left=0.0)
            axes.grid(visible=False, axis="y")
            axes.set_xlabel(f"{label} [{scale.unit}]")
        return figure
