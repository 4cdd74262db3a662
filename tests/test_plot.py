"""The pictures: each command draws its file, on few steps; and says what is missing."""

import sys
from pathlib import Path

import pytest

from torch_gd.plot import digits
from torch_gd.plot.__main__ import PICTURES, main

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

QUICK = {"schedules": ["--steps", "100", "--warmup", "10"], "lr-sweep": ["--epochs", "1"]}


@pytest.mark.parametrize("command", [picture.COMMAND for picture in PICTURES])
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_draws(
    command: str,
    ending: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    torch_path: None,
) -> None:
    out = tmp_path / f"picture.{ending}"
    main([command, "--out", str(out), *QUICK.get(command, [])])
    assert out.read_bytes().startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    assert out.stat().st_size > 10_000
    assert capsys.readouterr().out.strip() == str(out)


def test_every_schedule_is_drawn() -> None:
    import torch

    from torch_gd import lr_scheduler
    from torch_gd.plot.schedules import schedules

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], momentum=0.9)
    panels = schedules(optimizer, 1000, 100)
    drawn = {type(schedule) for curves in panels.values() for schedule in curves.values()}
    assert drawn == set(lr_scheduler.Schedule.__subclasses__())


def test_no_picture() -> None:
    with pytest.raises(SystemExit):
        main([])


@pytest.mark.parametrize(
    ("module", "command", "message"),
    [
        ("sklearn.datasets", "lr-sweep", "pip install scikit-learn"),
        ("matplotlib.figure", "schedules", "pip install matplotlib"),
    ],
)
def test_what_is_missing_is_said(
    module: str, command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=message):
        main([command, "--out", str(tmp_path / "picture.png")])


def test_digits() -> None:
    data = digits.load()
    assert len(data.train_y) + len(data.test_y) == 1797
    assert data.train_x.min() == 0
    assert data.train_x.max() == 1
    assert set(data.test_y.tolist()) == set(range(10))
