"""What a user installs: one top-level package, kernels included."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build")
pytest.importorskip("setuptools")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout stays as it is."""
    import shutil

    source = tmp_path_factory.mktemp("source") / "torch_gd"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    out = tmp_path_factory.mktemp("wheel")
    run = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_only_top_level_package_is_torch_gd(wheel: Path) -> None:
    """Triton's own repository installs a `triton_kernels`; ours must not overwrite it."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"torch_gd"}
    kernels = {path.name for path in (ROOT / "triton_kernels").glob("*.py")}
    assert {name.split("/")[-1] for name in names if name.startswith("torch_gd/triton_kernels/")} == kernels
    assert "torch_gd/py.typed" in names


def test_the_wheel_works_from_an_empty_directory(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    script = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch, torch_gd
assert torch_gd.__file__.startswith(sys.argv[1]), torch_gd.__file__
from torch_gd.triton_kernels import rules
p = torch.ones(3, requires_grad=True)
p.grad = torch.ones(3)
torch_gd.AdamW([p]).step()
assert (p < 1).all()
print("ok")
"""
    pytest.importorskip("triton")
    run = subprocess.run([sys.executable, "-c", script, str(site)], cwd=empty, capture_output=True, text=True)
    assert run.stdout.strip() == "ok", run.stderr
