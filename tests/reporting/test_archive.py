"""PDF/A, and the same bytes from the same run wherever and whenever it is rendered."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ttq_energy.reporting import render

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def archive(ablation, tmp_path_factory):
    pikepdf = pytest.importorskip("pikepdf")
    path = render(ablation, out=tmp_path_factory.mktemp("pdf") / "r.pdf", pdf_a=True)
    with pikepdf.open(path) as pdf:
        yield pdf


def test_the_archive_declares_pdf_a_2b_and_its_colours(archive):
    with archive.open_metadata() as told:
        assert (told["pdfaid:part"], told["pdfaid:conformance"]) == ("2", "B")
        assert told["dc:title"]
    (intent,) = archive.Root.OutputIntents
    assert str(intent.S) == "/GTS_PDFA1"
    assert len(intent.DestOutputProfile.read_bytes()) > 100


def test_every_font_of_the_archive_is_embedded(archive):
    descriptors = [o for o in archive.objects if getattr(o, "_type_code", 0) and _is_font(o)]
    assert descriptors
    for font in descriptors:
        assert any(key in font for key in ("/FontFile", "/FontFile2", "/FontFile3"))


def _is_font(item: object) -> bool:
    get = getattr(item, "get", None)
    try:
        return get is not None and str(get("/Type", "")) == "/FontDescriptor"
    except (TypeError, ValueError):
        return False


def test_the_archive_holds_nothing_that_pdf_a_forbids(archive):
    assert not archive.is_encrypted
    text = archive.Root.unparse().decode("latin-1") if hasattr(archive.Root, "unparse") else ""
    assert "/JavaScript" not in text
    for name in ("/AA", "/OpenAction", "/NeedsRendering"):
        assert name not in archive.Root
    assert "/ID" in archive.trailer
    for page in archive.pages:
        assert "/AA" not in page


_RENDER = """
import sys
from ttq_energy.reporting import render
from ttq_energy.run import load_run
render(load_run(sys.argv[1]), "pdf", sys.argv[2])
"""


def test_the_same_run_gives_the_same_bytes_anywhere(ablation, tmp_path):
    made = []
    for place, zone, language in (("a", "Asia/Tokyo", "C"), ("b/c", "America/New_York", "C.UTF-8")):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        out = folder / f"{place[0]}.pdf"
        subprocess.run(
            [sys.executable, "-c", _RENDER, str(ablation.folder), str(out)],
            check=True,
            cwd=folder,
            env={**os.environ, "TZ": zone, "LC_ALL": language, "TMPDIR": str(folder),
                 "PYTHONHASHSEED": str(len(place)),
                 "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
        made.append(out.read_bytes())
    assert made[0] == made[1]
