"""Made-up runs of every kind, each written once a session and not changed by tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ttq_energy.run import Run


def _load_synthetic() -> ModuleType:
    name = "ttq_energy_tests_synthetic"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).with_name("synthetic.py")
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The module that makes runs up."""
    return _load_synthetic()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def counters(synthetic: ModuleType, folder: Path) -> Run:
    return synthetic.counters_run(folder / "counters")


@pytest.fixture(scope="session")
def modelled(synthetic: ModuleType, folder: Path) -> Run:
    return synthetic.modelled_run(folder / "modelled")


@pytest.fixture(scope="session")
def interrupted(synthetic: ModuleType, folder: Path) -> Run:
    return synthetic.interrupted_run(folder / "interrupted")


@pytest.fixture(scope="session")
def estimates(synthetic: ModuleType, folder: Path) -> Run:
    return synthetic.estimates_run(folder / "estimates")


@pytest.fixture(scope="session")
def ablation(synthetic: ModuleType, folder: Path) -> Run:
    return synthetic.ablation_run(folder / "ablation")
