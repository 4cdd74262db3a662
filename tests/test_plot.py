"""The pictures: each command draws its file with few steps, or says what is missing."""

import errno
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import torch_gd
from torch_gd.plot import arguments, digits, from_log, landscape, lr_sweep, schedules, surfaces
from torch_gd.plot.__main__ import PICTURES, main

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

QUICK = {
    "schedules": ["--steps", "15", "--warmup", "10"],  # as few as it takes
    "lr-sweep": ["--epochs", "1"],
    "surfaces": ["--steps", "3"],
    "landscape": ["--epochs", "1", "--points", "5"],
}
# These are drawn from an example's log, and tested with the example: tests/test_convergence_examples.py.
FROM_LOGS = ("variants", "overfitting", "depth", "large-batch")


@pytest.mark.parametrize("command", [picture.COMMAND for picture in PICTURES if picture.COMMAND not in FROM_LOGS])
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
    from torch_gd import lr_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], momentum=0.9)
    panels = schedules.schedules(optimizer, 1000, 100)
    drawn = {type(schedule) for curves in panels.values() for schedule in curves.values()}
    ours = {kind for kind in lr_scheduler.Schedule.__subclasses__() if kind.__module__.startswith("torch_gd.")}
    assert drawn == ours


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the line that a command line is refused with."""
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1]


def test_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert "PICTURE" in refused([], capsys)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("schedules --steps 0", "--steps: must be 1 or more"),
        ("schedules --steps 99999999999", "--steps: must be below 2**31"),
        ("schedules --warmup -1", "--warmup: must be 0 or more"),
        ("schedules --warmup 1000", "--steps: 1000 leave too few after a warm-up of 1000"),
        ("schedules --out=", "--out: cannot write to ''"),
        ("schedules --out .", "--out: cannot write to '.'"),
        ("schedules --out no/such/folder/a.png", "--out: cannot write to 'no/such/folder/a.png': No such file"),
        ("surfaces --steps -1", "--steps: must be 1 or more"),
        ("surfaces --out a.abc", "--out: 'a.abc' must end in one of"),
        ("landscape --points 1", "--points: must be 2 or more"),
        ("landscape --epochs 0", "--epochs: must be 1 or more"),
        ("landscape --seed 99999999999999999999", "--seed: must be from -2**63"),
        ("depth --log .", "cannot read the log '.': Is a directory"),
    ],
)
def test_what_cannot_be_drawn_is_refused(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(line.split(" "), capsys)


def test_a_picture_without_an_ending_gets_one_and_nothing_is_left_of_the_try(tmp_path: Path) -> None:
    assert arguments.output_picture(str(tmp_path / "picture")) == str(tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(schedules, "save", full)
    out = str(tmp_path / "picture.png")
    assert f"cannot write to {out!r}: No space left" in refused(["schedules", "--out", out], capsys)


@pytest.mark.parametrize(
    ("module", "command", "message"),
    [
        ("sklearn.datasets", "lr-sweep", "pip install scikit-learn"),
        ("matplotlib.figure", "schedules", "pip install matplotlib"),
        ("matplotlib.backend_bases", "schedules", "pip install matplotlib"),
    ],
)
def test_what_is_missing_is_said(
    module: str,
    command: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert message in refused([command, "--out", str(tmp_path / "picture.png")], capsys)


def test_lamb_learns_at_the_rate_that_is_called_well_tuned(torch_path: None) -> None:
    data, model = digits.load(), digits.network()
    lr = lr_sweep.tuned_rate("lamb", model, data)
    # It was 96 %; at the range test's own suggestion it was 9 %.
    assert digits.train(data, model, torch_gd.create_optimizer("lamb", model, lr), epochs=8).accuracy > 90


def test_digits() -> None:
    data = digits.load()
    assert len(data.train_y) + len(data.test_y) == 1797
    assert data.train_x.min() == 0
    assert data.train_x.max() == 1
    assert set(data.test_y.tolist()) == set(range(10))


# --- Surfaces ---------------------------------------------------------------------------------------------------------


def test_the_minima_are_minima() -> None:
    for problem in surfaces.PROBLEMS:
        for minimum in problem.minima:
            x, y = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in minimum)
            gradient = torch.autograd.grad(problem.surface(x, y), (x, y))
            assert [g.item() for g in gradient] == pytest.approx([0, 0], abs=1e-12)
            around = problem.surface(*(torch.tensor(minimum) + 0.01 * torch.randn(100, 2)).T)
            assert (around >= problem.surface(x, y).item()).all()


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("problem", surfaces.PROBLEMS, ids=lambda problem: problem.title)
def test_a_path_stays_in_the_picture_and_leads_down(name: str, problem: surfaces.Problem, torch_path: None) -> None:
    path = surfaces.descend(name, problem, 30)
    assert path.points.shape == (31, 2)
    assert path.points[0].tolist() == pytest.approx(problem.start)
    x, y = path.points.T
    assert problem.x[0] < x.min()
    assert x.max() < problem.x[1]
    values = problem.surface(x, y)
    assert values[-1] < values[0]


def test_a_film_is_an_animation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_path: None) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    monkeypatch.setattr(surfaces, "OPTIMIZERS", ("SGD",))
    main(["surfaces", "--out", str(tmp_path / "film.gif"), "--steps", "2"])
    with image.open(tmp_path / "film.gif") as film:
        assert film.n_frames >= 3  # equal frames become one that is shown for longer


# --- Landscape --------------------------------------------------------------------------------------------------------


def test_filter_normalised_directions() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3, 2))
    direction = landscape.random_direction(model, torch.Generator().manual_seed(0))
    for name, p in model.named_parameters():
        norms = direction[name].flatten(1).norm(dim=1) if p.ndim > 1 else direction[name].norm()
        expected = p.detach().flatten(1).norm(dim=1) if p.ndim > 1 else torch.tensor(0.0)
        torch.testing.assert_close(norms, expected)


def test_a_plane_is_the_loss_there() -> None:
    data, model = digits.load(), digits.network()
    a, b = (landscape.random_direction(model, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    x, y = torch.tensor([-1.0, 0.5]), torch.tensor([-0.5, 0.0, 1.0])
    plane = landscape.plane(model, data, a, b, x, y)
    moved = digits.network()
    with torch.no_grad():
        for name, p in moved.named_parameters():
            p += x[1] * a[name] + y[2] * b[name]
        expected = nn.functional.cross_entropy(moved(data.train_x), data.train_y)
    assert plane.shape == (3, 2)
    torch.testing.assert_close(
        plane[2, 1], expected
    )  # the sums have another order, so torch's default tolerance is needed


def test_principal_directions_of_a_flat_run() -> None:
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]])
    points = corners @ torch.linalg.qr(torch.randn(5, 2)).Q.T
    directions, along, share = landscape.principal(points)
    assert share == pytest.approx(1)
    torch.testing.assert_close(along @ directions, points - points[-1])
    assert along[-1].tolist() == [0, 0]


HEADER = b"step,tag,value,wall_time\n"
LOGS = {
    "is not there": (None, "no log "),
    "is empty": (b"", "is not an example's log"),
    "is binary": (bytes(range(256)), "is not an example's log"),
    "has other columns": (b"a,b\n1,2\n", "is not an example's log"),
    "has words for numbers": (HEADER + b"one,a/loss,0.5,1.0\n", "is not an example's log"),
    "has no lines": (HEADER, "nothing is in the log"),
    "has other measures": (HEADER + b"1,a/elsewhere,0.5,1.0\n", "of 'a' to draw"),
    "has no number": (HEADER + b"1,a/loss,nan,1\n1,a/gradient,nan,1\n1,a/train,nan,1\n", "of 'a' to draw"),
}


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("command", FROM_LOGS)
def test_a_log_that_cannot_be_drawn_is_said(
    command: str, log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = LOGS[log]
    path = tmp_path / "log.csv"
    if content is not None:
        path.write_bytes(content)
    line = refused([command, "--log", str(path), "--out", str(tmp_path / "picture.png")], capsys)
    assert message in line
    assert "log.csv" in line
    assert "run the example that writes it" in line
    assert not (tmp_path / "picture.png").exists()


def test_a_log_that_was_cut_off_is_drawn_up_to_there(tmp_path: Path) -> None:
    lines = [f"{step},a/{measure},0.5,1.0" for step in (1, 2) for measure in ("loss", "epoch", "seconds", "noise")]
    (tmp_path / "log.csv").write_bytes(HEADER + "\n".join(lines[:-2]).encode() + b"\n")
    runs = from_log.read(str(tmp_path / "log.csv"), "loss", "epoch", "seconds", "noise", together=True)
    assert {len(values) for curve in runs["a"].values() for values in curve} == {1}
    main(["variants", "--log", str(tmp_path / "log.csv"), "--out", str(tmp_path / "picture.png")])
    assert (tmp_path / "picture.png").stat().st_size > 10_000
