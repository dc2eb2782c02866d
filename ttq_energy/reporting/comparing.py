"""A report on several runs: aligned by network, variant and batch size, provenances kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ttq_energy.errors import InputError
from ttq_energy.reporting import tables, views
from ttq_energy.reporting.answer import answer, device, notices, sensor_notice
from ttq_energy.reporting.document import Block, FigureView, Front, Listing, Report, Section
from ttq_energy.reporting.formatting import ends, interval, listed
from ttq_energy.reporting.frames import each_row
from ttq_energy.reporting.front import QUESTION
from ttq_energy.reporting.sections import across
from ttq_energy.reporting.sections.estimated import no_carbon
from ttq_energy.reporting.tables.gather import gather, run_names
from ttq_energy.run import Run

if TYPE_CHECKING:
    import pandas as pd

_ENERGY_KINDS = ("counter", "integrated", "modelled")
_WORDS = {"gross_energy": "energy", "net_energy": "net energy", "latency": "latency"}


def compare_runs(runs: Sequence[Run], country: str | None = None) -> Report:
    """The report on several runs.

    Args:
        runs: at least two.
        country: ISO 3166 code for the carbon section; None leaves it out.

    Raises:
        InputError: one run is given twice.
    """
    _refuse_the_same_twice(runs)
    carbon = _carbon(runs, country) if country is not None else None
    found = [
        _the_runs(runs),
        _side_by_side(runs),
        _accuracy(runs),
        _energy(runs),
        across.power(runs),
        _training(runs),
        across.layers(runs),
        _estimates(runs),
        carbon,
        _notices(runs, [no_carbon(country)] if country is not None and carbon is None else []),
    ]
    created = max(str(run.manifest.get("created") or "") for run in runs)
    names = run_names(runs)
    return Report(
        title=f"Energy report: {len(runs)} runs compared",
        subtitle=listed(names),
        created=created,
        front=_front(runs),
        sections=tuple(section for section in found if section is not None),
    )


def _refuse_the_same_twice(runs: Sequence[Run]) -> None:
    places = [run.folder.resolve() for run in runs]
    for place in places:
        if places.count(place) > 1:
            raise InputError(f"{place}: given twice; expected different runs to compare")


def _front(runs: Sequence[Run]) -> Front:
    table = tables.across_runs(runs)
    plotted = [*_figures(runs, "gross_energy"), *_figures(runs, "latency")]
    blocks: list[Block] = plotted[:1]
    kinds = _energy_kinds(runs)
    warned = []
    if len(kinds) > 1:
        warned.append(
            f"**Provenance differs**: energies are {listed(kinds)}. They stand apart, and no "
            "figure combines them."
        )
    warned += tables.differences(runs)
    for name, run in zip(run_names(runs), runs, strict=True):
        sentence = sensor_notice(run)
        if sentence:
            warned.append(f"`{name}`: {sentence}")
    return Front(QUESTION, _answer(runs, table), "", "", tuple(warned), tuple(blocks))


def _side_by_side(runs: Sequence[Run]) -> Section | None:
    """The plots that the first page has no room for, and the verdicts counted."""
    table = tables.across_runs(runs)
    if table.empty:
        return None
    plotted = [*_figures(runs, "gross_energy"), *_figures(runs, "latency")]
    blocks = (*plotted[1:], _across_view(table[table["quantity"] != "net_energy"]))
    return Section("side-by-side", "Side by side", blocks)


def _energy_kinds(runs: Sequence[Run]) -> list[str]:
    found = {str(kind) for run in runs for kind in tables.energy(run)["provenance"]}
    return [kind for kind in _ENERGY_KINDS if kind in found]


def _answer(runs: Sequence[Run], table: pd.DataFrame) -> str:
    """One sentence on the variant and batch size that the most runs have."""
    for quantity, kinds in (
        ("gross_energy", ("counter",)),
        ("gross_energy", ("integrated",)),
        ("latency", ("timed",)),
    ):
        rows = table[(table["quantity"] == quantity) & table["provenance"].isin(kinds)]
        if rows.empty:
            continue
        rows = rows[rows["runs"] == rows["runs"].max()]
        preferred = rows[rows["variant"] == "ttq"]
        row = (preferred if len(preferred) else rows).sort_values("batch_size").iloc[0]
        span = f"**{ends(row.ratio_least, row.ratio_most)}**"
        what = "energy" if quantity == "gross_energy" else "time"
        words = ("saves", "costs") if what == "energy" else ("is faster", "is slower")
        parts = [
            f"{verb} in {row[key]}"
            for verb, key in (
                (words[0], "saves"),
                (words[1], "costs"),
                ("is undecided", "undecided"),
            )
            if row[key]
        ]
        return (
            f"{row.model} as `{row.variant}`, at batch size {row.batch_size}, takes {span} times "
            f"the {what} of `{row.baseline}` per inference over {row.runs} of {len(runs)} runs "
            f"({row.provenance}; the outermost ends of the 95 % intervals): it {listed(parts)} of "
            "them."
        )
    told = [f"`{n}`: {answer(r)}" for n, r in zip(run_names(runs), runs, strict=True)]
    return " ".join(told)


def _across_view(table: pd.DataFrame) -> Block:
    return views.table(
        "across_runs",
        "Each comparison with the baseline over the runs: how many gave which verdict, and the "
        "outermost ends of their 95 % intervals. Ratios of different machines are not averaged.",
        table,
        [
            views.count("batch_size", "batch"),
            views.words("quantity", "quantity"),
            views.text("variant", "variant"),
            views.text("provenance", "provenance"),
            views.count("runs", "runs"),
            views.count("saves", "less"),
            views.count("undecided", "undecided"),
            views.count("costs", "more"),
            views.value("ratio_least", "least ratio", digits=2),
            views.value("ratio_most", "greatest ratio", digits=2),
        ],
    )


def _figures(runs: Sequence[Run], quantity: str) -> list[Block]:
    """One plot a provenance."""
    from ttq_energy.reporting import plots
    from ttq_energy.reporting.tables.comparing import main_comparisons

    frame = gather(list(runs), main_comparisons)
    frame = frame[(frame["quantity"] == quantity) & frame["ratio"].notna()]
    blocks: list[Block] = []
    for provenance, group in frame.groupby("provenance", sort=False):
        ordered = group.sort_values(["model", "batch_size"], kind="stable")
        what = _WORDS[quantity]
        bases = listed(list(dict.fromkeys(group["baseline"])), "or")
        texts = [
            f"{r.run}, {r.variant}, batch size {r.batch_size}: "
            f"{interval(r.ratio, r.ratio_low, r.ratio_high)}"
            for r in each_row(ordered)
        ]
        hatched = "; modelled, hence hatched" if provenance == "modelled" else ""
        blocks.append(
            FigureView(
                f"runs-{quantity}-{provenance}",
                f"Ratio to {bases} in {what} per inference by run ({provenance}{hatched}), "
                "with 95 % intervals.",
                f"{'; '.join(texts)}.",
                partial(plots.ratios_by_run, ordered),
            )
        )
    return blocks


def _the_runs(runs: Sequence[Run]) -> Section:
    import pandas as pd

    rows = []
    for name, run in zip(run_names(runs), runs, strict=True):
        environment = run.manifest.get("environment") or {}
        packages = environment.get("packages") or {}
        where = run.measurements["device"].unique()
        rows.append(
            {
                "run": name,
                "study": str((run.manifest.get("study") or {}).get("name", "")),
                "date": str(run.manifest.get("created") or "").partition("T")[0],
                "status": run.status,
                "device": listed([device(run, str(d)) for d in where]) or device(run, "cpu"),
                "energies": listed(_energy_kinds([run])),
                "meters": listed(map(str, run.manifest.get("meters") or [])),
                "version": str(packages.get("ttq-energy") or ""),
                "torch": str(packages.get("torch") or ""),
            }
        )
    frame = pd.DataFrame(rows)
    columns = [views.text(c, c, wide=c == "device") for c in frame.columns if c != "run"]
    columns = [views.text("run", "run"), *columns] if len(set(frame["run"])) < 2 else columns
    return Section(
        "runs", "The runs", (views.table("runs", "The runs that are compared.", frame, columns),)
    )


def _accuracy(runs: Sequence[Run]) -> Section | None:
    frame = tables.accuracy(runs)
    if frame.empty:
        return None
    columns = [
        views.text("variant", "variant"),
        views.percent("accuracy", "accuracy"),
        views.points("change", "change from the baseline"),
        views.count("seeds", "seeds"),
        views.count("examples", "test examples"),
    ]
    caption = "Test accuracy in every run, with 95 % intervals."
    plotted = across.accuracy_energy(runs)
    blocks = (*plotted, views.table("accuracy", caption, frame, columns))
    title = "Accuracy against energy" if plotted else "Accuracy"
    return Section("accuracy", title, blocks)


def _energy(runs: Sequence[Run]) -> Section | None:
    from ttq_energy.reporting.tables.measured import of_main_domain

    blocks: list[Block] = []
    energy = gather(list(runs), lambda run: of_main_domain(tables.energy(run), run))
    order = ["model", "batch_size", "variant"]
    for provenance, group in energy.groupby("provenance", sort=False):
        blocks.append(
            views.table(
                f"energy_{provenance}",
                f"Energy of one inference in every run ({provenance}), with 95 % intervals.",
                group.sort_values(order, kind="stable"),
                [
                    views.count("batch_size", "batch"),
                    views.text("variant", "variant"),
                    views.text("domain", "domain"),
                    views.interval("energy_j", "gross", "J"),
                    views.interval(
                        "net_energy_j", "net", "J", "net_energy_low_j", "net_energy_high_j"
                    ),
                    views.count("blocks", "blocks"),
                ],
            )
        )
    latency = tables.latency(runs)
    if len(latency):
        blocks.append(
            views.table(
                "latency",
                "Latency of one inference in every run, with 95 % intervals.",
                latency.sort_values(order, kind="stable"),
                [
                    views.count("batch_size", "batch"),
                    views.text("variant", "variant"),
                    views.interval("latency_s", "latency", "s"),
                    views.count("blocks", "blocks"),
                    views.text("kernel", "kernel", wide=True),
                ],
            )
        )
    comparisons = tables.comparisons(runs)
    if len(comparisons):
        blocks.append(
            views.table(
                "comparisons",
                "Ratios variant ÷ baseline per inference in every run.",
                comparisons,
                [
                    views.count("batch_size", "batch"),
                    views.words("quantity", "quantity"),
                    views.text("domain", "domain"),
                    views.text("variant", "variant"),
                    views.interval("ratio", "ratio"),
                    views.count("rounds", "rounds"),
                    views.verdict(),
                    views.text("provenance", "provenance"),
                ],
            )
        )
    if not blocks:
        return None
    return Section("energy-latency", "Energy and latency per inference", tuple(blocks))


def _training(runs: Sequence[Run]) -> Section | None:
    frame = tables.training_cost(runs)
    if frame.empty:
        return None
    view = views.table(
        "training",
        "What training took in every run, and after how many inferences it is paid for.",
        frame,
        [
            views.text("variant", "variant"),
            views.value("wall_s", "wall time", "s"),
            views.interval("energy_j", "energy", "J"),
            views.text("provenance", "provenance"),
            views.interval(
                "break_even_inferences",
                "break-even inferences",
                low="break_even_low",
                high="break_even_high",
            ),
        ],
    )
    return Section("training", "Training and break-even", (view,))


def _estimates(runs: Sequence[Run]) -> Section | None:
    frame = tables.estimate_totals(runs)
    if frame.empty:
        return None
    view = views.table(
        "estimates",
        "Modelled energy of one inference on every target; nothing here was measured.",
        frame.assign(provenance="modelled"),
        [
            views.text("target", "target"),
            views.text("variant", "variant"),
            views.interval("energy_j", "energy", "J"),
            views.interval("ratio", "energy ÷ baseline"),
            views.verdict(),
            views.text("reason", "what makes the difference", wide=True),
        ],
    )
    return Section("estimates", "Estimates for accelerators", (view,))


def _carbon(runs: Sequence[Run], country: str) -> Section | None:
    from ttq_energy.reporting.sections.estimated import carbon_section

    return carbon_section(tables.carbon(runs, country), country)


def _notices(runs: Sequence[Run], missing: Sequence[str]) -> Section | None:
    blocks: list[Block] = [Listing(tuple(missing))] if missing else []
    for name, run in zip(run_names(runs), runs, strict=True):
        said = [*notices(run), *map(str, run.manifest.get("messages") or [])]
        if said:
            blocks += [f"`{name}`", Listing(tuple(said))]
    refused = tables.blocks_left_out(runs)
    if len(refused):
        blocks.append(
            views.table(
                "blocks_left_out",
                "Blocks that were measured and left out of every comparison.",
                refused,
                [
                    views.count("batch_size", "batch"),
                    views.text("domain", "domain"),
                    views.text("reason", "reason", wide=True),
                    views.count("blocks", "blocks"),
                    views.count("of", "of"),
                ],
            )
        )
    return Section("left-out", "What was left out", tuple(blocks)) if blocks else None
