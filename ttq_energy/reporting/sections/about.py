"""What the run stood on: machine, sensors, variants; what was left out; method and sources."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ttq_energy.reporting import tables, views
from ttq_energy.reporting.answer import PROVENANCE
from ttq_energy.reporting.document import Block, Code, Listing, Section
from ttq_energy.reporting.formatting import fixed, listed, quantity
from ttq_energy.run import TABLES, Run

_WRITTEN_BY = {
    "train": ("training",),
    "measure": ("measurements", "comparisons"),
    "estimate": ("estimates",),
}
"""What each kind of stage leaves behind."""

MOST_NAMED = 8
"""Groups of whom a message is of; more are counted."""
_SHARE = re.compile(r"(\d+ of \d+) ")

_SOURCES = (
    (
        ("layers", "training", "measurements", "estimates"),
        "C. Zhu, S. Han, H. Mao, W. J. Dally. Trained Ternary Quantization. ICLR 2017, "
        "arXiv:1612.01064.",
    ),
    (
        ("training",),
        "E. B. Wilson. Probable inference, the law of succession, and statistical inference. "
        "Journal of the American Statistical Association 22 (1927): the accuracies' intervals.",
    ),
    (
        ("estimates",),
        "M. Horowitz. Computing's energy problem (and what we can do about it). ISSCC 2014; each "
        "target's file names the source of every coefficient.",
    ),
    (
        ("comparisons",),
        "M. Okabe, K. Ito. Color Universal Design, 2008: the plots' colours.",
    ),
)


def hardware_and_software(run: Run) -> Section | None:
    """Machine, sensors with resolution, variants with the kernels that ran, versions."""
    machine = tables.machine(run)
    blocks: list[Block] = []
    command = (run.manifest.get("environment") or {}).get("command")
    if command:
        text = shlex.join(map(str, command)) if isinstance(command, list) else str(command)
        blocks += ["The run was made by:", Code(text)]
        machine = machine[machine["item"] != "command"]
    if len(machine):
        blocks.append(
            views.table(
                "machine",
                "Hardware and software.",
                machine,
                [
                    views.text("part", "part"),
                    views.text("item", "item"),
                    views.text("value", "value", wide=True),
                ],
            )
        )
    networks = _networks(run)
    if networks:
        blocks.append(networks)
    sensors = tables.sensors(run)
    if len(sensors):
        usable = sensors["readable"].map({True: "yes", False: "no"})
        why = sensors["reason"] + sensors["remedy"].map(lambda r: f" ({r})" if r else "")
        blocks.append(
            views.table(
                "sensors",
                "Sensors that were looked for.",
                sensors.assign(usable=usable, why=why.str.strip()),
                [
                    views.text("name", "sensor"),
                    views.text("usable", "readable"),
                    views.text("provenance", "provenance"),
                    views.text("covers", "covers", wide=True),
                    views.value("update_period_s", "update", "s", digits=2),
                    views.value("resolution_j", "step", "J", digits=2),
                    views.text("why", "why not", wide=True),
                ],
            )
        )
    variants = tables.variants(run)
    if len(variants):
        blocks.append(
            views.table(
                "variants",
                "Variants, whose weights they run, and the code that ran them.",
                variants,
                [
                    views.text("variant", "variant"),
                    views.text("meaning", "meaning", wide=True),
                    views.text("of", "weights of"),
                    views.text("kernels", "kernels", wide=True),
                ],
            )
        )
    stages = tables.stages(run)
    if len(stages):
        total = quantity(float(stages["wall_s"].sum()), "s", 3)
        blocks.append(
            views.table(
                "stages",
                f"Wall time by kind of stage and network; together {total}.",
                stages,
                [
                    views.text("stage", "stage"),
                    views.text("network", "network"),
                    views.count("parts", "parts"),
                    views.value("wall_s", "wall time", "s"),
                ],
            )
        )
    if not blocks:
        return None
    return Section("machine", "Hardware and software", tuple(blocks))


def _networks(run: Run) -> str:
    told = []
    for name, entry in (run.manifest.get("models") or {}).items():
        if not isinstance(entry, dict):
            continue
        facts = []
        if entry.get("parameters"):
            facts.append(f"{fixed(float(entry['parameters']), 0)} parameters")
        if entry.get("dataset"):
            examples = entry.get("examples")
            count = f" ({fixed(float(examples), 0)} test examples)" if examples else ""
            facts.append(f"data set {entry['dataset']}{count}")
        if entry.get("input_shape"):
            facts.append(f"input {' × '.join(map(str, entry['input_shape']))}")
        told.append(f"`{name}`: {', '.join(facts)}" if facts else f"`{name}`")
    return f"Networks: {'; '.join(told)}." if told else ""


def left_out(run: Run, missing: Sequence[str] = ()) -> Section | None:
    """Blocks, layers and variants that the figures do not contain, and why.

    ``missing`` are sentences on parts of the report that were asked for and cannot be made.
    """
    messages = said_once(map(str, run.manifest.get("messages") or []))
    said = [*missing, *_lost_tables(run), *messages, *_absent_variants(run)]
    blocks: list[Block] = [Listing(tuple(said))] if said else []
    refused = tables.blocks_left_out(run)
    if len(refused):
        blocks.append(
            views.table(
                "blocks_left_out",
                "Blocks that were measured, kept in measurements.csv, and left out of every "
                "comparison.",
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
    layers = tables.layers(run)
    unknown = layers[~layers["supported"].fillna(False).astype(bool)]
    if len(unknown):
        share = unknown["weight_elements"].sum() / max(1, layers["weight_elements"].sum())
        blocks.append(
            views.table(
                "unsupported_layers",
                f"Layers that the counter does not know: {share * 100:.2g} % of all weights. "
                "Nothing is known of their cost; they are not counted as zero.",
                unknown[["model", "variant", "layer", "op", "weight_elements"]],
                [
                    views.text("variant", "variant"),
                    views.text("layer", "layer"),
                    views.text("op", "op"),
                    views.count("weight_elements", "weights"),
                ],
            )
        )
    return Section("left-out", "What was left out", tuple(blocks)) if blocks else None


def said_once(messages: Iterable[str]) -> list[str]:
    """Messages "who: what" that say the same of several become one: "who; who: what".

    Shares that lead a message ("7 of 35 blocks ...") go to those that they are of: "a (7 of 35);
    b (2 of 35): blocks ...".
    """
    subjects: dict[str, dict[str, list[str]]] = {}
    for message in messages:
        who, colon, what = message.partition(": ")
        share = _SHARE.match(what) if colon else None
        what = what[share.end() :] if share else what
        known = subjects.setdefault(what if colon else "", {})
        known.setdefault(share[1] if share else "", []).append(who)
    plain = [who for known in (subjects.pop("", {}),) for who in known.get("", [])]
    return plain + [_said(what, known) for what, known in subjects.items()]


def _said(what: str, known: dict[str, list[str]]) -> str:
    if len(known) == 1:
        ((share, who),) = known.items()
        return f"{_several(who)}: {share + ' ' if share else ''}{what}"
    told = [
        f"{_several(who)} ({share})" if share else _several(who) for share, who in known.items()
    ]
    return f"{'; '.join(told)}: {what}"


def _several(names: Iterable[str]) -> str:
    """Names that differ in one word share the others: "net ttq, twn on eie"."""
    rows: list[tuple[tuple[str, ...], ...]] = [
        tuple((word,) for word in name.split(" ")) for name in dict.fromkeys(names)
    ]
    for place in range(max(map(len, rows), default=0)):
        alike: dict[Any, tuple[str, ...]] = {}
        for row in rows:
            rest = (row[:place], row[place + 1 :], len(row) > place)
            alike[rest] = alike.get(rest, ()) + (row[place] if len(row) > place else ())
        rows = [
            (*before, words, *after) if there else before
            for (before, after, there), words in alike.items()
        ]
    told = [" ".join(", ".join(words) for words in row) for row in rows]
    more = f" and {len(told) - MOST_NAMED} more" if len(told) > MOST_NAMED else ""
    return "; ".join(told[:MOST_NAMED]) + more


def _lost_tables(run: Run) -> list[str]:
    """Tables that a finished stage writes and that are no longer in the folder."""
    done = Counter(str(stage).partition("|")[0] for stage in run.manifest.get("stages") or {})
    told = []
    for stage, names in _WRITTEN_BY.items():
        files = [TABLES[name].file for name in names]
        lost = [f"`{file}`" for file in files if not (run.folder / file).exists()]
        if done[stage] and lost:
            stages = "stage" if done[stage] == 1 else "stages"
            verb = "is" if len(lost) == 1 else "are"
            told.append(
                f"{listed(lost)} {verb} not in the run's folder, although run.json records "
                f"{done[stage]} finished `{stage}` {stages}: what stood there, if "
                "anything, is not in this report."
            )
    return told


def _absent_variants(run: Run) -> list[str]:
    if run.measurements.empty:
        return []
    compared = set(run.measurements["variant"])
    absent = [v for v in run.manifest.get("variants") or {} if v not in compared]
    if not absent:
        return []
    verb = "was" if len(absent) == 1 else "were"
    return [f"{listed([f'`{v}`' for v in absent])} {verb} not measured."]


def method(run: Run) -> Section:
    """How the figures came about and where the method stands written."""
    blocks: list[Block] = []
    if len(run.comparisons):
        blocks.append(
            "**Comparisons.** Variants are measured in interleaved, randomised blocks; each round "
            "measures every variant once and gives paired ratios variant ÷ baseline. A ratio comes "
            "with its 95 % interval: the verdict is `saves` when all of it lies below 1, `costs` "
            "when all of it lies above, else `undecided`."
        )
    if _kernels_differ(run):
        blocks.append(
            "**Kernels.** A ratio is of the code that ran, not of the weights alone: variants with "
            "`ttq-energy` kernels run stretches of layers in one native call, those of torch layer "
            "by layer. In small networks and batches the calls saved can be most of a ratio."
        )
    if len(run.measurements):
        blocks.append(
            "**Energy and latency per inference** are means over valid blocks. Their intervals add "
            "Student's t interval of the blocks and the mean half-width of the blocks' own sensor "
            "intervals as squares."
        )
    if len(run.training):
        blocks.append(
            "**Accuracies.** One seed: Wilson's interval of the test set. Several seeds: their "
            "mean; Student's t interval over the seeds is added to Wilson's as squares, because "
            "all seeds share one test set. Changes take both intervals as independent, which errs "
            "on the wide side."
        )
    if len(run.estimates):
        blocks.append(
            "**Estimates.** Counted operations and accesses times the target's published energies. "
            "A ratio's range moves the coefficients of storage together for both variants, and "
            "those of arithmetic and decoding apart, each to the ends of its 95 % range."
        )
    kinds = dict.fromkeys([*run.measurements["provenance"], *run.training["provenance"]])
    kinds |= {"modelled": None} if len(run.estimates) else {}
    said = [PROVENANCE[kind] for kind in PROVENANCE if kind in kinds]
    if said:
        blocks.append(
            f"**Provenance.** {'; '.join(said)}. Figures of different provenance are never added "
            "or averaged."
        )
    blocks.append(f"**The study**, as run on {run.manifest.get('created', 'an unknown date')}:")
    blocks.append(Code(_study_text(run.manifest.get("study") or {})))
    present = {name for name in run.tables if len(run.tables[name])}
    sources = [text for needs, text in _SOURCES if present & set(needs)]
    if sources:
        blocks += ["**Sources.**", Listing(tuple(sources))]
    return Section("method", "Method and sources", tuple(blocks))


def _kernels_differ(run: Run) -> bool:
    """Whether some measured variants ran on this package's kernels and some on none of them."""
    own = {"ttq-energy" in str(kernel) for kernel in run.measurements["kernel"]}
    return len(run.comparisons) > 0 and len(own) == 2


def _study_text(study: dict[str, Any]) -> str:
    import yaml

    plain = _without_empty(study)
    return yaml.safe_dump(plain, sort_keys=False, width=88, default_flow_style=None).rstrip()


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {k: v for k, v in kept.items() if v is not None and v != {} and v != [] and v != ""}
    if isinstance(value, (list, tuple)):
        return [_without_empty(item) for item in value]
    return value
