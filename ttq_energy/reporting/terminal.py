"""The answer in the terminal: a rich table, or plain text when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO, Any

from ttq_energy.reporting.answer import Headline, answer, headline, notices
from ttq_energy.reporting.document import Span, TableView, spans
from ttq_energy.reporting.formatting import DASH
from ttq_energy.reporting.front import summary_view
from ttq_energy.reporting.tables.gather import Snapshot
from ttq_energy.run import TABLES, Run


def summary_table(run: Run) -> Any:
    """A rich renderable: the answer, one row a variant, and where the files are."""
    from rich.console import Group
    from rich.text import Text

    run = Snapshot(run)
    chosen = headline(run)
    parts: list[Any] = [_styled(sentence, "yellow") for sentence in notices(run)]
    parts.append(_styled(answer(run, chosen), ""))
    view = summary_view(run, chosen)
    if view is not None:
        parts += [Text(), _FittingTable(view)]
        parts += [Text(view.note, style="dim")] if view.note else []
    parts += [Text(), *(Text(line, style="dim") for line in file_lines(run))]
    return Group(*parts)


class _FittingTable:
    """A table where the terminal is wide enough for it, else one value a line: none is cut."""

    def __init__(self, view: TableView) -> None:
        self.view = view

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        table = self._table()
        if console.measure(table, options=options.update(width=10_000)).minimum <= (
            options.max_width
        ):
            yield table
            return
        yield Text(self.view.caption, style="dim")
        for row in self.view.rows:
            yield Text(row[0], style="bold")
            for column, cell in zip(self.view.columns[1:], row[1:], strict=True):
                if cell not in ("", DASH):
                    yield Text(f"  {column.header}:\n    {cell}")

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        # No box and no outer padding: the intervals then fit a terminal of 80 columns.
        table = Table(
            title=self.view.caption,
            title_justify="left",
            title_style="dim",
            box=None,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        for column in self.view.columns:
            justify: Any = "right" if column.numeric else "left"
            header = column.header.replace(" (", "\n(")
            table.add_column(header, justify=justify, no_wrap=column.numeric, vertical="bottom")
        for row in self.view.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table


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
    plain = plain_summary(run)
    console = Console(file=stream, highlight=False)
    if console.is_terminal and _encodable(plain, stream) == plain:
        console.print(summary_table(run))
        return
    stream.write(_encodable(plain, stream))


_ASCII = {
    "÷": "/", "×": "x", "–": "-", "−": "-", "µ": "u", "₂": "2", "…": "...", "\u202f": " ",
}  # fmt: skip


def _encodable(text: str, stream: IO[str]) -> str:
    """The text as the stream's encoding can show it, such as on a console that knows ASCII only."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        simple = "".join(_ASCII.get(character, character) for character in text)
        return simple.encode(encoding, "replace").decode(encoding)
    except LookupError:
        return text
    return text


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
        lines += [view.note] if view.note else []
    return "\n".join([*lines, "", *file_lines(run)]) + "\n"


def _plain(sentence: str) -> str:
    pieces: list[Span] = spans(sentence)
    return "".join(piece.text for piece in pieces)
