"""The report as one HTML file that loads nothing: it works from a disk, without a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib import resources

from ttq_energy.reporting.document import (
    Block,
    Code,
    FigureView,
    Listing,
    Report,
    Section,
    TableView,
    spans,
)
from ttq_energy.reporting.plots.style import (
    GRID,
    INK,
    MUTED,
    PAPER,
    palette,
    svg_text,
    value_notes,
)

_INCH_PX = 118
"""Width of one inch of a plot on a wide screen: a little over its printed size, for reading."""
_THEME = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def html_text(report: Report) -> str:
    """The report as HTML."""
    template = _resource("report.html")
    parts = {
        "title": escape(report.title),
        "subtitle": escape(report.subtitle),
        "policy": _POLICY,
        "style": _resource("report.css"),
        "script": _resource("report.js"),
        "contents": _contents(report.sections),
        "warning": f'<p class="warning" role="note">{escape(report.warning)}</p>'
        if report.warning
        else "",
        "front": _front(report),
        "sections": "\n".join(map(_section, report.sections)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _resource(name: str) -> str:
    file = resources.files("ttq_energy.reporting").joinpath(f"templates/{name}")
    return file.read_text(encoding="utf-8")


def _contents(sections: Sequence[Section]) -> str:
    items = [f'<li><a href="#{s.key}">{escape(s.title)}</a></li>' for s in sections]
    return f"<ul>{''.join(items)}</ul>"


def _front(report: Report) -> str:
    front = report.front
    said = []
    if front.verdict:
        said.append(f"Verdict: <strong>{escape(front.verdict)}</strong>.")
    if front.provenance:
        said.append(f"Provenance: {escape(front.provenance)}.")
    told = f'<p class="provenance">{" ".join(said)}</p>' if said else ""
    notices = "".join(f'<p class="notice" role="note">{_inline(n)}</p>' for n in front.notices)
    return (
        f'<p class="question">{escape(front.question)}</p>'
        f'<p class="answer">{_inline(front.answer)}</p>{told}{notices}{_blocks(front.blocks)}'
    )


def _section(section: Section) -> str:
    return (
        f'<section id="{section.key}" aria-labelledby="{section.key}-title">'
        f'<h2 id="{section.key}-title">{escape(section.title)}</h2>'
        f"{_blocks(section.blocks)}</section>"
    )


def _blocks(blocks: Sequence[Block]) -> str:
    return "\n".join(map(_block, blocks))


def _block(block: Block) -> str:
    if isinstance(block, TableView):
        return _table(block)
    if isinstance(block, FigureView):
        return _figure(block)
    if isinstance(block, Listing):
        return f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in block.items)}</ul>"
    if isinstance(block, Code):
        return f'<pre tabindex="0"><code>{escape(block.text)}</code></pre>'
    return f"<p>{_inline(block)}</p>"


def _inline(paragraph: str) -> str:
    tags = {"code": "code", "strong": "strong"}
    return "".join(
        f"<{tags[s.style]}>{escape(s.text)}</{tags[s.style]}>"
        if s.style in tags
        else escape(s.text)
        for s in spans(paragraph)
    )


def _table(view: TableView) -> str:
    anchor = f"table-{view.name}"
    heads = "".join(
        f'<th scope="col" aria-sort="none"{_kind(c.numeric)}>'
        f'<button type="button">{escape(c.header)}</button></th>'
        for c in view.columns
    )
    keys = [c.keys or c.cells for c in view.columns]
    rows = []
    for index, row in enumerate(view.rows):
        cells = "".join(
            f'<td{_kind(c.numeric, c.wide)} data-key="{escape(str(keys[i][index]))}">'
            f"{escape(cell)}</td>"
            for i, (c, cell) in enumerate(zip(view.columns, row, strict=True))
        )
        rows.append(f"<tr>{cells}</tr>")
    note = f'<p class="note">{escape(view.note)}</p>' if view.note else ""
    return (
        f'<div class="table"><p class="caption" id="{anchor}">{_inline(view.caption)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{anchor}">'
        f'<table aria-labelledby="{anchor}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}</div>"
    )


def _kind(numeric: bool, wide: bool = False) -> str:
    return ' class="number"' if numeric else (' class="wide"' if wide else "")


def _figure(view: FigureView) -> str:
    label = escape(view.alt)
    wide = _plot(view.svg, value_notes(view.figure), view.name, view.width)
    narrow_svg = svg_text(view.narrow)
    narrow_in = float(view.narrow.get_size_inches()[0])
    narrow = _plot(narrow_svg, value_notes(view.narrow), f"{view.name}-narrow", narrow_in)
    both = (
        wide
        if narrow_in >= view.width
        else f'<div class="for-wide">{wide}</div><div class="for-narrow">{narrow}</div>'
    )
    buttons = "".join(
        f'<button type="button" data-zoom="{action}" aria-label="{name}">{sign}</button>'
        for action, name, sign in (
            ("in", "zoom in", "+"),
            ("out", "zoom out", "−"),
            ("reset", "whole plot", "⟲"),
        )
    )
    return (
        '<figure class="plot">'
        f'<div class="canvas" tabindex="0" role="img" aria-label="{label}">{both}</div>'
        f'<div class="under"><figcaption>{_inline(view.caption)}</figcaption>'
        f'<div class="tools">{buttons}</div></div>'
        f"<details><summary>Values in words</summary><p>{label}</p></details></figure>"
    )


def _plot(svg: str, notes: dict[str, str], name: str, width: float) -> str:
    """An SVG made fit for a page: own ids, theme colours, and the values of its marks."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    style = f'style="width:{width * _INCH_PX:.0f}px" aria-hidden="true"'
    svg = svg.replace("<svg", f"<svg {style}", 1)

    # Plots share a page: their ids, and whatever refers to them, get the plot's name.
    def named(found: re.Match[str]) -> str:
        note = notes.get(found[1])
        return f'id="{name}-{found[1]}"' + (f' data-note="{escape(note)}"' if note else "")

    svg = re.sub(r'\bid="([^"]+)"', named, svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    colors = {color: f"var(--{variable})" for color, variable in _THEME.items()}
    colors |= {c: f"var(--c{c[1:]},{c})" for c in palette() if c not in colors}
    return re.sub("|".join(map(re.escape, colors)), lambda found: colors[found[0]], svg)
