"""Small help with DataFrames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def each_row(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples, whose fields have the types that their columns hold."""
    yield from frame.itertuples()
