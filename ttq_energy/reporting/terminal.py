"""The answer in the terminal: a rich table, or plain text when piped."""

from __future__ import annotations

import sys
from typing import IO, Any

from ttq_energy.reporting.answer import Headline, answer, headline, notices
from ttq_energy.reporting.document import Span, spans
from ttq_energy.reporting.front import summary_view
from ttq_energy.reporting.tables.gather import Snapshot
from ttq_energy.run import TABLES, Run


def summary_table(run: Run) -> Any:
    """A rich renderable: the answer, one row a variant, and where the files are."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    run = Snapshot(run)
    chosen = headline(run)
    parts: list[Any] = [_styled(sentence, "yellow") for sentence in notices(run)]
    parts.append(_styled(answer(run, chosen), ""))
    view = summary_view(run, chosen)
    if view is not None:
        # No box and no outer padding: the intervals then fit a terminal of 80 columns.
        table = Table(
            title=view.caption,
            title_justify="left",
            title_style="dim",
            box=None,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        for column in view.columns:
            justify: Any = "right" if column.numeric else "left"
            header = column.header.replace(" (", "\n(")
            table.add_column(header, justify=justify, no_wrap=column.numeric, vertical="bottom")
        for row in view.rows:
            table.add_row(*(Text(cell) for cell in row))
        parts += [Text(), table]
    parts += [Text(), *(Text(line, style="dim") for line in file_lines(run))]
    return Group(*parts)


def _styled(sentence: str, base: str) -> Any:
    from rich.text import Text

    text = Text(style=base)
    for span in spans(sentence):
        text.append(span.text, style={"strong": "bold", "code": "cyan"}.get(span.style, ""))
    return text


def file_lines(run: Run) -> list[str]:
    """Where the run's files are, those that exist."""
    names = ["report.pdf", "report.html", *(table.file for table in TABLES.values())]
    found = [name for name in names if (run.folder / name).exists()]
    return [f"Run: {run.folder}", f"     {', '.join(found)}" if found else "     (no tables yet)"]


def print_summary(run: Run, file: IO[str] | None = None) -> None:
    """Print the summary; plain text without colours or boxes where it is not a terminal."""
    from rich.console import Console

    stream = file or sys.stdout
    console = Console(file=stream, highlight=False)
    if console.is_terminal:
        console.print(summary_table(run))
        return
    stream.write(plain_summary(run))


def plain_summary(run: Run) -> str:
    """The summary as plain text, columns padded with spaces."""
    run = Snapshot(run)
    chosen: Headline = headline(run)
    lines = [_plain(s) for s in (*notices(run), answer(run, chosen))]
    view = summary_view(run, chosen)
    if view is not None:
        cells = [[column.header for column in view.columns], *view.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(view.columns))]
        lines += ["", view.caption]
        for row in cells:
            padded = [
                cell.rjust(width) if column.numeric else cell.ljust(width)
                for cell, width, column in zip(row, widths, view.columns, strict=True)
            ]
            lines.append("  ".join(padded).rstrip())
    return "\n".join([*lines, "", *file_lines(run)]) + "\n"


def _plain(sentence: str) -> str:
    pieces: list[Span] = spans(sentence)
    return "".join(piece.text for piece in pieces)
