"""The house keeps its order: imports point down, and the light parts stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ttq_energy

PACKAGE = Path(ttq_energy.__file__).parent
ROWS = (
    ("errors", "files", "strict_yaml", "records", "progress", "user_code", "payback", "run_tables"),
    ("study", "run", "variants", "environment", "meters", "kernels", "models", "datasets"),
    ("quantization", "measurement"),
    ("energy_model", "training"),
    ("pipeline", "reporting"),
    ("profiler",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(ROWS) for name in names}
REPORTING_MAY_USE = {
    "errors",
    "files",
    "strict_yaml",
    "records",
    "progress",
    "payback",
    "study",
    "run",
}


def imports(file: Path) -> set[str]:
    """The package's own modules that a file imports, type-checking ones included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "ttq_energy":
                found |= {alias.name for alias in node.names if alias.name in RANK}
            elif node.module.startswith("ttq_energy."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names if a.name.startswith("ttq_energy.")]
            found |= {name[1] for name in names}
    return found


def home(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [f for f in sorted(PACKAGE.rglob("*.py")) if home(f) not in ("__init__", "__main__")]


def test_every_module_has_a_row():
    assert {home(f) for f in FILES} - {"profiles"} <= set(RANK)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_down(file):
    own = home(file)
    for other in imports(file) - {own}:
        allowed = RANK[other] <= RANK[own] and not _same_row_circle(own, other)
        assert allowed, f"{own} (row {RANK[own]}) imports {other} (row {RANK[other]})"
        if own == "reporting":
            assert other in REPORTING_MAY_USE, f"reporting reads a Run alone, not {other}"


def _same_row_circle(own: str, other: str) -> bool:
    if RANK[own] != RANK[other]:
        return False
    return any(own in imports(f) for f in FILES if home(f) == other)


def loaded(code: str) -> set[str]:
    """Which modules a fresh interpreter has loaded after running ``code``."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()}


HEAVY = {"torch", "matplotlib", "pandas", "sklearn", "scipy", "codecarbon"}


@pytest.mark.parametrize(
    "code",
    [
        "import ttq_energy",
        "from ttq_energy.cli import build_parser; build_parser()",
        "from ttq_energy.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass",
    ],
)
def test_light_parts_load_nothing_heavy(code):
    assert not loaded(code) & HEAVY


@pytest.mark.parametrize(
    "module", ["ttq_energy.meters", "ttq_energy.energy_model.targets", "ttq_energy.kernels.isa"]
)
def test_parts_that_work_without_torch(module):
    assert "torch" not in loaded(f"import {module}")


def test_the_picture_in_docs_names_every_row():
    docs = Path(__file__).parents[1] / "docs" / "architecture.md"
    text = docs.read_text()
    for name in RANK:
        assert f"`{name}`" in text, f"docs/architecture.md does not mention {name}"
