"""The page's colours are readable in both themes, and on paper."""

from __future__ import annotations

import re
from importlib import resources

import pytest

_SHEET = resources.files("ttq_energy.reporting").joinpath("templates/report.css").read_text()


def _theme(selector: str) -> dict[str, str]:
    body = re.search(rf"{re.escape(selector)} \{{(.*?)\}}", _SHEET, re.DOTALL)
    assert body
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", body[1]))


def _luminance(color: str) -> float:
    """Relative luminance of WCAG 2.2."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("selector", [":root", ':root[data-theme="dark"]'])
def test_text_has_the_contrast_that_wcag_asks_for(selector):
    theme = _theme(selector)
    for text in ("ink", "muted", "accent", "link"):
        for ground in ("paper", "soft"):
            assert _contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    assert _contrast(theme["focus"], theme["paper"]) >= 3.0


def test_paper_gets_no_buttons_and_tables_that_repeat_their_heads():
    printed = _SHEET[_SHEET.index("@media print") :]
    for hidden in ("nav", ".tools", "#theme"):
        assert hidden in printed
    assert "table-header-group" in printed
