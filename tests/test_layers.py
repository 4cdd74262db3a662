"""The contracts in pyproject.toml hold, and are broken by what they are there to catch."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter")
ROOT = Path(__file__).parent.parent
UPWARDS = """
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..optimizers import base
"""
CIRCLE = "\nfrom . import launch\n"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "torch_gd", tmp_path / "torch_gd", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_contracts_hold(copy: Path) -> None:
    run = lint(copy)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("module", "code", "complaint"),
    [
        ("_engine/layout.py", UPWARDS, "torch_gd._engine.layout -> torch_gd.optimizers.base"),
        ("triton_kernels/table.py", CIRCLE, "No cycles are allowed in torch_gd.triton_kernels"),
        ("another/__init__.py", "", "torch_gd.another"),  # a package that no layer names
    ],
)
def test_a_broken_contract_is_reported(copy: Path, module: str, code: str, complaint: str) -> None:
    path = copy / "torch_gd" / module
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(code)
    run = lint(copy)
    assert run.returncode != 0
    assert complaint in " ".join((run.stdout + run.stderr).split())
