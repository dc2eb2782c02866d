"""The install script names a missing tool in one line, before it makes anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "install"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="installed without the checkout")


@pytest.fixture
def tools(tmp_path):
    """A PATH with only the tools named, each a link or a small script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "env"):
        os.symlink(shutil.which(name), folder / name)

    def give(name: str, script: str | None = None) -> None:
        path = folder / name
        if script is None:
            os.symlink(sys.executable if name == "python3" else shutil.which(name), path)
        else:
            path.write_text(f"#!/bin/bash\n{script}\n")
            path.chmod(0o755)

    def run() -> tuple[int, str, bool]:
        venv = tmp_path / "venv"
        done = subprocess.run(
            [str(SCRIPT), str(venv)],
            env={"PATH": str(folder)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr, venv.exists()

    return give, run


def test_no_python(tools):
    _, run = tools
    code, error, made = run()
    assert (code, made) == (2, False)
    assert "'python3' not found" in error
    assert error.count("\n") == 1


def test_an_old_python(tools):
    give, run = tools
    give("python3", 'case "$1" in --version) echo "Python 3.9.2";; *) exit 1;; esac')
    code, error, made = run()
    assert (code, made) == (2, False)
    assert "Python 3.9.2 is too old" in error


def test_no_venv_module(tools):
    give, run = tools
    give("python3", 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac')
    code, error, made = run()
    assert (code, made) == (2, False)
    assert "venv module is missing (Debian: apt-get install python3-venv)" in error


def test_no_compiler(tools):
    give, run = tools
    give("python3", "exit 0")
    code, error, made = run()
    assert (code, made) == (2, False)
    assert "no C++ compiler found (Debian: apt-get install g++)" in error


def test_a_compiler_that_does_not_work(tools):
    give, run = tools
    give("python3", "exit 0")
    give("c++", "exit 1")
    code, error, made = run()
    assert (code, made) == (2, False)
    assert "the C++ compiler 'c++' cannot compile" in error
