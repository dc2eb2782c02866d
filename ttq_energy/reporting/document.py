"""A report before it has a form: sections of paragraphs, tables and figures.

Paragraphs may mark ``code`` with backticks and **strong** words with double asterisks; every
renderer turns these into its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


PAGE_IN = 6.5
"""Width of the text of a page, inches."""
COLUMN_IN = 3.4
"""Width of one column of a two-column paper, inches."""


@dataclass(frozen=True)
class Column:
    """One column as people see it.

    Attributes:
        header: its title, with the unit.
        cells: one text a row.
        numeric: set flush right, and sorted by ``keys``.
        keys: what rows are sorted by; the cells where empty.
        wide: holds sentences, which may wrap.
    """

    header: str
    cells: Sequence[str]
    numeric: bool = False
    keys: Sequence[float | str] = ()
    wide: bool = False


@dataclass(frozen=True)
class TableView:
    """A table: ``data`` tidy and in SI units, ``columns`` as people see it."""

    name: str
    caption: str
    data: pd.DataFrame
    columns: tuple[Column, ...]
    note: str = ""

    @property
    def rows(self) -> list[list[str]]:
        return [list(row) for row in zip(*(c.cells for c in self.columns), strict=True)]


@dataclass(frozen=True)
class FigureView:
    """A plot with its caption and what it shows in words, for those who cannot see it.

    Attributes:
        draw: makes the plot at a ``width`` in inches.
        width: on a printed page.
        stamp: a warning drawn into the plot, which then goes wherever the plot goes.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[..., Figure]
    width: float = PAGE_IN
    stamp: str = ""

    @cached_property
    def figure(self) -> Figure:
        """The plot at the page's width, drawn once."""
        return self._drawn(self.width)

    @cached_property
    def narrow(self) -> Figure:
        """The plot at the width of a column, for small screens."""
        return self._drawn(min(self.width, COLUMN_IN))

    def _drawn(self, width: float) -> Figure:
        figure = self.draw(width=width)
        if self.stamp:
            from ttq_energy.reporting.plots.style import stamp

            stamp(figure, self.stamp)
        return figure

    @cached_property
    def svg(self) -> str:
        """The plot at the page's width as SVG, made once."""
        from ttq_energy.reporting.plots.style import svg_text

        return svg_text(self.figure)


@dataclass(frozen=True)
class Code:
    """Text to be shown as it stands, such as a command."""

    text: str


@dataclass(frozen=True)
class Listing:
    """Short texts, one beneath the other."""

    items: tuple[str, ...]


Block = str | TableView | FigureView | Code | Listing


@dataclass(frozen=True)
class Section:
    """One part of the report; ``key`` is its anchor."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Front:
    """The first page: the question, its answer in one sentence, one plot.

    Attributes:
        notices: what the reader must know before believing the answer, such as that no sensor
            was readable or that the run was interrupted.
        verdict: "saves", "costs", "undecided" or "" where nothing was compared.
        provenance: of the answer's figures, in words.
    """

    question: str
    answer: str
    verdict: str
    provenance: str
    notices: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that a renderer needs. ``created`` is the run's, as ISO 8601.

    ``warning`` stands on every page, in every plot and beside every table; empty as a rule.
    """

    title: str
    subtitle: str
    created: str
    front: Front
    sections: tuple[Section, ...] = field(default=())
    warning: str = ""

    def blocks(self) -> Iterator[Block]:
        """All blocks in order, those of the first page first."""
        yield from self.front.blocks
        for section in self.sections:
            yield from section.blocks

    @property
    def tables(self) -> list[TableView]:
        return [block for block in self.blocks() if isinstance(block, TableView)]

    @property
    def figures(self) -> list[FigureView]:
        return [block for block in self.blocks() if isinstance(block, FigureView)]


@dataclass(frozen=True)
class Span:
    """A piece of a paragraph; style is "plain", "code" or "strong"."""

    text: str
    style: str = "plain"


_MARKED = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*")


def spans(paragraph: str) -> list[Span]:
    """A paragraph's pieces by their marks."""
    pieces, position = [], 0
    for match in _MARKED.finditer(paragraph):
        if match.start() > position:
            pieces.append(Span(paragraph[position : match.start()]))
        code, strong = match.groups()
        pieces.append(Span(code, "code") if code else Span(strong, "strong"))
        position = match.end()
    if position < len(paragraph):
        pieces.append(Span(paragraph[position:]))
    return pieces
