"""The examples of what goes wrong in training: each shows what it claims to show, and draws its picture."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from torch_gd.convergence.logs import curves, read_csv

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)


@pytest.fixture(autouse=True)
def as_a_script(torch_path: None) -> Iterator[None]:
    """Use torch's path and one thread, because interpreted kernels would take minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """Run an example's main, and return what it logged, by tag."""
    log, picture = tmp_path / "log.csv", tmp_path / "picture.png"
    monkeypatch.setattr(sys, "argv", [f"{example}.py", "--log", str(log), "--plot", str(picture), *arguments])
    importlib.import_module(example).main()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000
    return curves(read_csv(log))


def cells(out: str, name: str) -> list[str]:
    """Return the cells of the table's row of that name."""
    row = re.search(rf"^{re.escape(name)}  +(.*)$", out, re.MULTILINE)
    assert row is not None, out
    return re.split(r"  +", row[1])


@needs_torchvision
def test_every_remedy_narrows_the_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logged = run("overfitting", tmp_path, monkeypatch)
    out = capsys.readouterr().out
    train, validation = (logged[f"no remedy/{part}"][1] for part in ("train", "validation"))
    best = validation.index(min(validation))
    assert train[-1] < 0.1 * train[best]
    assert validation[-1] > 1.2 * validation[best]
    assert "no remedy: over-fitting: validation loss rose" in out
    gaps = {name: float(cells(out, name)[2]) for name in importlib.import_module("overfitting").REMEDIES}
    assert len(gaps) == 6
    assert all(gap < 0.8 * gaps["no remedy"] for name, gap in gaps.items() if name != "no remedy"), gaps
    zeros = {name: cells(out, name)[4] for name in gaps}
    assert zeros["L2"] == "0%"
    assert int(zeros["L1"].rstrip("%")) > 50


def test_depth_makes_gradients_vanish_and_explode_and_each_cure_cures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logged = run("depth", tmp_path, monkeypatch, "--steps", "80")
    out = capsys.readouterr().out
    assert "vanishing gradients" in cells(out, "tanh, small weights")[3]
    assert "exploding gradients" in cells(out, "ReLU, large weights")[3]
    for name in importlib.import_module("depth").NETWORKS:
        first, *_, last = logged[f"{name}/gradient"][1]
        if name in ("tanh, small weights", "ReLU, large weights"):
            continue
        assert 0.1 < first / last < 10, name
        assert "gradients" not in cells(out, name)[3], name
        losses = logged[f"{name}/loss"][1]
        assert sum(losses[-10:]) < 0.9 * sum(losses[:10]), name


def test_variants_differ_as_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = run("batch_variants", tmp_path, monkeypatch, "--share", "0.1")
    names = list(importlib.import_module("batch_variants").VARIANTS)
    for name in names:
        losses = logged[f"{name}/loss"][1]
        assert losses[-1] < 0.9 * losses[0]
    batch, mini, stochastic = (logged[f"{name}/noise"][1] for name in names)
    assert max(batch) < 1e-5  # the same sum in another order
    assert 1e-2 < mini[0] < stochastic[0]
    updates = [logged[f"{name}/loss"][0][-1] for name in names]
    assert updates == [20, 90, 431]
