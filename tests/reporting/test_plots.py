"""The plots: one style, values inside the frame, modelled figures always hatched."""

from __future__ import annotations

import math

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from ttq_energy.reporting import plots, tables
from ttq_energy.reporting.plots.power import decimated
from ttq_energy.reporting.plots.style import style, value_notes, variant_marker


def _one_domain(frame):
    return frame[frame["domain"] == frame["domain"].iloc[0]]


def _front(run):
    frame = run.comparisons
    return frame[
        frame["quantity"].isin(["gross_energy", "latency"]) & (frame["domain"] != "dram-0")
    ]


MAKERS = {
    "ratios": lambda run, **o: plots.ratios(_front(run), **o),
    "energy_bars": lambda run, **o: plots.energy_bars(_one_domain(tables.energy(run)), **o),
    "latency_bars": lambda run, **o: plots.latency_bars(tables.latency(run), **o),
    "accuracy_energy": lambda run, **o: plots.accuracy_energy(tables.accuracy_energy(run), **o),
    "power_trace": lambda run, **o: plots.power_trace(
        tables.traces(run).query("batch_size == 1"), **o
    ),
    "curves": lambda run, **o: plots.curves(tables.training_curves(run), **o),
    "accuracy_dots": lambda run, **o: plots.accuracy_dots(tables.accuracy(run), **o),
    "training_bars": lambda run, **o: plots.training_bars(tables.training_cost(run), **o),
    "layer_bars": lambda run, **o: plots.layer_bars(tables.layers(run), **o),
    "component_bars": lambda run, **o: plots.component_bars(
        tables.estimate_components(run), tables.estimate_totals(run), **o
    ),
    "ratio_by_place": lambda run, **o: plots.ratio_by_place(tables.measured_and_modelled(run), **o),
}


@pytest.mark.parametrize("width", [plots.COLUMN_IN, plots.FULL_IN])
@pytest.mark.parametrize("name", MAKERS)
def test_every_plot_fits_its_width_and_tells_its_values(name, width, counters):
    figure = MAKERS[name](counters, width=width)
    assert isinstance(figure, Figure)
    assert figure.get_size_inches()[0] == pytest.approx(width)
    with style():
        figure.draw_without_rendering()
        drawn = figure.get_tightbbox()
    assert drawn.x0 >= -0.02
    assert drawn.x1 <= width + 0.02
    assert value_notes(figure)
    sizes = [text.get_fontsize() for text in figure.findobj(mpl.text.Text) if text.get_text()]
    assert min(sizes) >= 6.5


@pytest.mark.parametrize("name", ["energy_bars", "latency_bars", "ratios", "training_bars"])
def test_axes_name_their_quantity_and_unit_or_ratio(name, counters):
    for axes in MAKERS[name](counters).axes:
        assert "[" in axes.get_xlabel() or "÷" in axes.get_xlabel()


def _bars(figure):
    return [p for axes in figure.axes for p in axes.patches if p.get_width() and p.get_height()]


@pytest.mark.parametrize("name", ["energy_bars", "component_bars", "training_bars"])
def test_modelled_bars_are_hatched(name, modelled):
    figure = MAKERS[name](modelled)
    panel = figure.axes[-1] if name == "training_bars" else figure.axes[0]
    assert all(patch.get_hatch() for patch in panel.patches)
    assert all(patch.get_facecolor()[3] == 0 for patch in panel.patches)


def test_measured_bars_are_not_hatched(counters):
    assert not any(patch.get_hatch() for patch in _bars(MAKERS["energy_bars"](counters)))


def test_measured_and_modelled_differ_within_one_plot(counters):
    frame = tables.measured_and_modelled(counters)
    figure = plots.ratio_by_place(frame)
    hatched = sum(bool(patch.get_hatch()) for patch in figure.axes[0].patches)
    assert hatched == (frame["provenance"] == "modelled").sum()


def test_a_variant_has_one_colour_everywhere_and_a_marker_of_its_own():
    names = ["fp32", "bf16", "int8", "ttq", "ttq-int8", "twn", "ttq-fixed", "ttq-symmetric", "bwn"]
    assert len({plots.variant_color(name) for name in names}) == len(names)
    assert len({variant_marker(name) for name in names}) == len(names)
    assert plots.variant_color("mine") == plots.variant_color("mine")


def test_ratios_of_different_provenance_do_not_share_an_axis(counters, modelled):
    frame = tables.comparisons([counters, modelled])
    with pytest.raises(ValueError, match="one provenance"):
        plots.ratios_by_run(frame[frame["quantity"] == "gross_energy"])


@pytest.mark.parametrize("one_round", ["all", "some"])
def test_a_ratio_of_one_round_is_drawn_without_an_end(counters, one_round):
    frame = _front(counters).copy()
    rows = frame.index if one_round == "all" else frame.index[::2]
    frame.loc[rows, ["ratio_low", "ratio_high"]] = 0.0, math.inf
    places = tables.measured_and_modelled(counters)
    places.loc[places["batch_size"] > 0, ["ratio_low", "ratio_high"]] = 0.0, math.inf
    runs = frame[frame["quantity"] == "gross_energy"].assign(run="only")
    for figure in (plots.ratios(frame), plots.ratio_by_place(places), plots.ratios_by_run(runs)):
        for axes in figure.axes:
            assert 1 < axes.get_xlim()[1] < 10
        assert any("(no interval)" in text for text in value_notes(figure).values())
        assert "nan" not in plots.svg_text(figure).lower()


def test_plots_leave_the_callers_style_alone(counters):
    before = dict(mpl.rcParams)
    MAKERS["ratios"](counters)
    assert dict(mpl.rcParams) == before


def test_the_same_figure_gives_the_same_svg(counters):
    first, second = (plots.svg_text(MAKERS["power_trace"](counters)) for _ in range(2))
    assert first == second
    assert "<text" not in first


def test_dense_traces_keep_their_extremes():
    import numpy as np

    t = np.linspace(0, 1, 50_000)
    values = np.sin(40 * t)
    values[31_234] = 9.0
    kept_t, kept = decimated(t, values, 400)
    assert len(kept) <= 400
    assert kept.max() == 9.0
    assert (np.diff(kept_t) > 0).all()
