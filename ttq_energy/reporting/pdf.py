"""The report as PDF by typst: vector plots, embedded fonts, the same bytes for the same run."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

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

_ARCHIVE: list[Any] = ["a-2b"]
_EPOCH = datetime(1980, 1, 1)
_WIDE_TABLE_CHARACTERS = 95
_SHORT_TABLE_ROWS = 14
"""Tables up to this long stay on one page."""


_LONG_WORD = re.compile(r"\S{50,}")
_PIECES = re.compile(r".{1,20}")


def pdf_bytes(report: Report, archive: bool = False) -> bytes:
    """The report as PDF.

    Args:
        report: what to lay out.
        archive: PDF/A-2b instead of plain PDF 1.7.
    """
    import typst

    created = _created(report)
    with tempfile.TemporaryDirectory(prefix="ttq-report-") as name:
        folder = Path(name)
        for figure in report.figures:
            (folder / f"{figure.name}.svg").write_text(figure.svg, encoding="utf-8")
        plain = json.dumps(_plain(report, created), ensure_ascii=False)
        (folder / "report.json").write_text(plain, encoding="utf-8")
        template = resources.files("ttq_energy.reporting").joinpath("templates/report.typ")
        source = folder / "report.typ"
        source.write_text(template.read_text(encoding="utf-8"), encoding="utf-8")
        pdf: bytes = typst.compile(
            str(source),
            root=str(folder),
            # Only typst's own fonts: the same pages on every machine. Scripts that these lack
            # are worth more than that.
            ignore_system_fonts=not _beyond_own_fonts(plain),
            pdf_standards=_ARCHIVE if archive else [],
            timestamp=int(created.timestamp()),
        )
    return pdf


def _created(report: Report) -> datetime:
    try:
        return datetime.fromisoformat(report.created)
    except ValueError:
        return _EPOCH


def _beyond_own_fonts(text: str) -> bool:
    return any(ord(c) >= 0x2E80 or 0x0590 <= ord(c) < 0x1E00 for c in text)


def _plain(report: Report, created: datetime) -> dict[str, Any]:
    front = report.front
    return {
        "title": breakable(report.title),
        "warning": report.warning,
        "subtitle": breakable(report.subtitle),
        "plain_answer": "".join(span.text for span in spans(front.answer)),
        "date": {
            key: getattr(created, key)
            for key in ("year", "month", "day", "hour", "minute", "second")
        },
        "front": {
            "question": front.question,
            "answer": _spans(front.answer),
            "verdict": front.verdict,
            "provenance": front.provenance,
            "notices": [_spans(notice) for notice in front.notices],
            "blocks": _blocks(front.blocks),
        },
        "sections": [_section(section, first=i == 0) for i, section in enumerate(report.sections)],
    }


def _section(section: Section, first: bool) -> dict[str, Any]:
    return {
        "key": section.key,
        "title": section.title,
        "break_before": first,
        "blocks": _blocks(section.blocks),
    }


def _blocks(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    plain = [_block(block) for block in blocks]
    for item, following in pairwise([*plain, {"kind": "end"}]):
        item["leads"] = item["kind"] == "text" and following["kind"] not in ("text", "end")
    return plain


def _block(block: Block) -> dict[str, Any]:
    if isinstance(block, TableView):
        return {"kind": "table", **_table(block)}
    if isinstance(block, FigureView):
        return {
            "kind": "figure",
            "path": f"{block.name}.svg",
            "width": float(block.figure.get_size_inches()[0]),
            "caption": _spans(block.caption),
            "alt": block.alt,
        }
    if isinstance(block, Listing):
        return {"kind": "list", "items": [_spans(item) for item in block.items]}
    if isinstance(block, Code):
        return {"kind": "code", "text": block.text}
    return {"kind": "text", "spans": _spans(block)}


def _table(view: TableView) -> dict[str, Any]:
    widest = [max([len(c.header) * 0.6, *map(len, c.cells)]) for c in view.columns]
    narrow = sum(w for w, c in zip(widest, view.columns, strict=True) if not c.wide)
    wide = sum(min(w, 28) for w, c in zip(widest, view.columns, strict=True) if c.wide)
    characters = narrow + wide + 2 * len(widest)
    size = 8.6 if characters <= _WIDE_TABLE_CHARACTERS else 7.6
    if characters > 1.2 * _WIDE_TABLE_CHARACTERS:
        size = 6.9
    return {
        "caption": breakable(view.caption),
        "note": breakable(view.note),
        "size": size,
        "breakable": len(view.rows) > _SHORT_TABLE_ROWS,
        "columns": [
            {
                "header": column.header,
                "numeric": column.numeric,
                "wide": column.wide,
                "weight": max(1.0, min(4.0, width / 14)),
            }
            for column, width in zip(view.columns, widest, strict=True)
        ],
        "rows": [[breakable(cell) for cell in row] for row in view.rows],
    }


def _spans(paragraph: str) -> list[dict[str, str]]:
    return [{"text": breakable(span.text), "style": span.style} for span in spans(paragraph)]


def breakable(text: str) -> str:
    """The text with places to break (zero-width spaces) in words too long for a line."""
    return _LONG_WORD.sub(lambda word: "\u200b".join(_PIECES.findall(word[0])), text)
