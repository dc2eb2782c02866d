"""The one style of all plots: colours, sizes, hatching, deterministic SVG, values for hovering."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ttq_energy.errors import InputError, nearest
from ttq_energy.files import atomic_writer
from ttq_energy.reporting.document import COLUMN_IN as COLUMN_IN
from ttq_energy.reporting.document import PAGE_IN

if TYPE_CHECKING:
    import pandas as pd

FULL_IN = PAGE_IN
"""Width of a whole page's text, inches."""

INK = "#1b1b1f"
MUTED = "#6b6b76"
GRID = "#dcdce2"
PAPER = "#ffffff"
WARNING = "#a8480a"
HATCH = "////"

# Okabe and Ito's colours (Color Universal Design, 2008), ordered so that the usual variants also
# differ in lightness; yellow is darkened to be seen on white.
_KNOWN = {
    "fp32": "#4a4a55",
    "bf16": "#9a9aa6",
    "int8": "#0072b2",
    "ttq": "#d55e00",
    "ttq-int8": "#e69f00",
    "twn": "#009e73",
    "ttq-fixed": "#cc79a7",
    "ttq-symmetric": "#7b3294",
    "bwn": "#56b4e9",
    "dorefa": "#a59a1c",
}
_OTHERS = ("#8c510a", "#35978f", "#762a83", "#b2182b", "#4393c3", "#5aae61", "#c2a5cf", "#bf812d")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "h")

# Told apart by colour and, in greyscale, by hatching.
_COMPONENTS = (
    ("#d55e00", "////"),
    ("#0072b2", "\\\\\\\\"),
    ("#009e73", "...."),
    ("#e69f00", "xxxx"),
    ("#56b4e9", "----"),
    ("#cc79a7", "++++"),
    ("#8c510a", "oooo"),
    ("#9a9aa6", "||||"),
    ("#7b3294", "//.."),
    ("#4a4a55", "\\\\--"),
)
_USUAL_COMPONENTS = (
    "arithmetic",
    "dram",
    "buffer",
    "registers",
    "vector",
    "network",
    "decode",
    "static",
)

_PATH = re.compile(r' d="[^"]*"')
_DECIMALS = re.compile(r"(\.\d\d)\d+")

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "ttq-energy",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Everything drawn or saved inside has the one style; the caller's own is left alone."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)  # type: ignore[arg-type]
        yield


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A Figure in inches and its axes as a list, row by row. Call inside :func:`style`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def panels_abreast(count: int, width: float) -> int:
    """How many panels stand beside each other in a figure of that width in inches."""
    if width <= 5 or count < 2:
        return 1
    return 3 if count > 4 else 2


def short(name: object, most: int = 26) -> str:
    """A name for an axis or a legend: its middle gives way where it is too long.

    Dollar signs are kept from being read as mathematics.
    """
    text = str(name)
    if len(text) > most:
        text = f"{text[: most - most // 2 - 1]}…{text[len(text) - most // 2 :]}"
    return text.replace("$", r"\$")


def need(frame: pd.DataFrame, plot: str, *columns: str) -> None:
    """Check what a plot is given.

    Raises:
        InputError: not a DataFrame, no rows, or a column is missing or holds no numbers.
    """
    if not hasattr(frame, "columns"):
        raise InputError(f"{plot}: expected a DataFrame, got {type(frame).__name__}")
    for column in columns:
        if column not in frame.columns:
            close = nearest(column, map(str, frame.columns))
            hint = f"; there is '{close}'" if close else ""
            raise InputError(f"{plot}: the column '{column}' is missing{hint}")
        if column.endswith(("_j", "_s", "_w", "_bytes")) or column.startswith(
            ("ratio", "accuracy")
        ):
            kind = frame[column].dtype
            if kind.kind not in "iuf" and not frame[column].isna().all():
                raise InputError(f"{plot}: the column '{column}' holds {kind}, expected numbers")
    if not len(frame):
        raise InputError(f"{plot}: the table has no rows")


def variant_color(variant: str) -> str:
    """The colour of a variant, the same in every plot of every run."""
    return _KNOWN.get(variant) or _OTHERS[_hash(variant) % len(_OTHERS)]


def variant_rank(variant: str) -> tuple[int, str]:
    """Sorts the usual variants in their usual order, others after them by name."""
    names = list(_KNOWN)
    return (names.index(variant) if variant in names else len(names), variant)


def variant_marker(variant: str) -> str:
    """The marker of a variant, which tells it apart where colour cannot."""
    names = list(_KNOWN)
    place = names.index(variant) if variant in names else _hash(variant)
    return _MARKERS[place % len(_MARKERS)]


def component_styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and hatching of each component of an estimate; the usual ones always the same."""
    order = [*_USUAL_COMPONENTS, *sorted(set(names) - set(_USUAL_COMPONENTS))]
    return {n: _COMPONENTS[order.index(n) % len(_COMPONENTS)] for n in names}


def _hash(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0]


def palette() -> tuple[str, ...]:
    """Every colour that a plot may use for data."""
    return tuple(dict.fromkeys((*_KNOWN.values(), *_OTHERS, *(color for color, _ in _COMPONENTS))))


def modelled(provenance: object) -> bool:
    """Whether figures of this provenance must be hatched."""
    return str(provenance) == "modelled"


def annotate_value(artist: Any, text: str) -> None:
    """Say what an artist stands for; the HTML report shows it when the artist is pointed at."""
    figure = artist.get_figure(root=True)
    notes = getattr(figure, "value_notes", None)
    if notes is None:
        notes = {}
        figure.value_notes = notes
    key = f"value-{len(notes)}"
    artist.set_gid(key)
    notes[key] = text


def value_notes(figure: Figure) -> dict[str, str]:
    """The texts of :func:`annotate_value` by the id that their artists have in the SVG."""
    return dict(getattr(figure, "value_notes", {}))


def legend_columns(width: float, labels: Sequence[str]) -> int:
    """How many labels fit beside each other above a figure of that width in inches."""
    longest = max((len(label) for label in labels), default=1)
    return max(1, min(len(labels), int(width / (0.4 + 0.055 * longest))))


def dodge(count: int, index: int, span: float = 0.7) -> float:
    """Offset of the index-th of ``count`` things that share one place."""
    return 0.0 if count == 1 else span * (index / (count - 1) - 0.5)


def error_bar(axes: Axes, x: float, y: float, *, low: float, high: float, **options: Any) -> None:
    """A horizontal or vertical interval (``vertical=True``) with small caps; none where unknown.

    An end without a bound, as one round leaves it, is an arrow to the edge of the axes.
    """
    if not (low == low and high == high):
        return
    vertical = options.pop("vertical", True)
    centre = y if vertical else x
    for end in (low, high):
        if math.isinf(end):
            color, width = options.get("ecolor", INK), options.get("elinewidth", 0.9)
            _unbounded(axes, x, y, 1.0 if end > 0 else 0.0, vertical, color, width)
    low, high = (end if math.isfinite(end) else centre for end in (low, high))
    if low == high == centre:
        return
    ends = [min(centre, low), max(centre, high)]
    across = [x, x] if vertical else [y, y]
    drawn: dict[str, Any] = {
        "color": options.pop("ecolor", INK),
        "linewidth": options.pop("elinewidth", 0.9),
        "marker": "_" if vertical else "|",
        "markersize": 4.5,
    }
    # One line whose markers are the caps: much quicker to draw than an ErrorbarContainer.
    axes.plot(*((across, ends) if vertical else (ends, across)), **{**drawn, **options})


def _unbounded(
    axes: Axes, x: float, y: float, edge: float, vertical: bool, color: str, width: float
) -> None:
    """An arrow from a point to an edge of the axes, wherever the limits will lie."""
    arrow = axes.annotate(
        "",
        (x, edge) if vertical else (edge, y),
        xycoords=axes.get_xaxis_transform() if vertical else axes.get_yaxis_transform(),
        xytext=(x, y),
        textcoords="data",
        arrowprops={
            "arrowstyle": "->",
            "color": color,
            "linewidth": width,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        zorder=4,
    )
    arrow.set_in_layout(False)


def greatest(*columns: Iterable[float]) -> float:
    """The greatest finite value of several columns, for an axis; 0 where there is none."""
    values = [float(value) for column in columns for value in column]
    return max((value for value in values if math.isfinite(value)), default=0.0)


def stamp(figure: Figure, text: str) -> None:
    """Write a warning under a figure, inside it."""
    with style():
        figure.supxlabel(text, fontsize=7, color=WARNING, fontweight="bold")


def svg_text(figure: Figure) -> str:
    """The figure as SVG, the same for the same figure; text as paths, so that no font is needed."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    with style():
        # Not savefig: it draws everything a second time, only to lay it out.
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(stream, metadata={"Date": None, "Creator": None})
    # A hundredth of a point is finer than any printer: six decimals only make the file larger.
    return _PATH.sub(lambda path: _DECIMALS.sub(r"\1", path[0]), stream.getvalue())


def save_svg(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write :func:`svg_text` to a file."""
    with atomic_writer(path) as stream:
        stream.write(svg_text(figure))
