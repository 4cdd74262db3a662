"""Logs: a CSV writer beside TensorBoard's own writer, and reading the file back."""

import inspect
import math
from pathlib import Path

import pytest
import torch

from torch_gd.convergence import CSVWriter, Monitor, log_scalars, logs, read_csv
from torch_gd.convergence.logs import Scalar

VALUES = [0.1, 1e-300, -2.5, math.inf, 3, 1 / 3]


def test_every_number_comes_back_exactly(tmp_path: Path) -> None:
    with CSVWriter(tmp_path / "run.csv") as writer:
        for step, value in enumerate(VALUES):
            writer.add_scalar("loss, 'train'", value, step, walltime=1.5)
        writer.add_scalar("tensor", torch.tensor(0.5))
        writer.add_scalar("nan", math.nan, 7)
    *numbers, tensor, nan = read_csv(tmp_path / "run.csv")
    assert numbers == [Scalar(step, "loss, 'train'", value, 1.5) for step, value in enumerate(VALUES)]
    assert tensor[:3] == (None, "tensor", 0.5)
    assert math.isnan(nan.value)
    assert logs.curves(numbers) == {"loss, 'train'": (list(range(len(VALUES))), VALUES)}


def test_add_scalars_and_appending(tmp_path: Path) -> None:
    for step in (1, 2):
        with CSVWriter(tmp_path / "run.csv", append=True) as writer:
            writer.add_scalars("loss", {"train": step, "validation": torch.tensor(2.0)}, step)
    assert [scalar[:3] for scalar in read_csv(tmp_path / "run.csv")] == [
        (1, "loss/train", 1),
        (1, "loss/validation", 2),
        (2, "loss/train", 2),
        (2, "loss/validation", 2),
    ]
    with CSVWriter(tmp_path / "run.csv"):
        pass
    assert read_csv(tmp_path / "run.csv") == []


def test_flushing(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    writer = CSVWriter(path)
    writer.add_scalar("a", 1.0, 1)
    assert path.read_text() == ""
    writer.flush()
    assert len(read_csv(path)) == 1
    writer.close()
    at_once = CSVWriter(path, flush_secs=0)
    at_once.add_scalar("a", 1.0, 1)
    assert len(read_csv(path)) == 1
    at_once.close()


def test_repr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with CSVWriter("run.csv", append=True) as writer:
        assert repr(writer) == "CSVWriter('run.csv', append=True)"
    assert repr(writer) == "CSVWriter('run.csv', append=True): closed"


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"other\.csv"):
        read_csv(path)
    with pytest.raises(ValueError, match=r"other\.csv begins with 'a,b'"):
        CSVWriter(path, append=True)
    assert path.read_text() == "a,b\n1,2\n"


def monitored() -> Monitor:
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([("weight", p)], lr=0.1)
    monitor = Monitor(optimizer, every=1)
    p.grad = torch.ones(4)
    optimizer.step()
    monitor.train_loss(0.5)
    return monitor


def test_the_monitor_in_a_csv(tmp_path: Path) -> None:
    with CSVWriter(tmp_path / "run.csv") as writer:
        log_scalars(writer, monitored().scalars(), 3)
    written = {scalar.tag: (scalar.step, scalar.value) for scalar in read_csv(tmp_path / "run.csv")}
    assert written["loss/train"] == (3, 0.5)
    assert written["grad_norm"] == written["grad_norm/weight"] == (3, 2.0)
    assert written["update_ratio"][1] == pytest.approx(0.1)


def test_the_monitor_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        log_scalars(writer, monitored().scalars(), 3)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("grad_norm")[0].step == 3
    assert events.Scalars("grad_norm")[0].value == 2.0
    assert "update_ratio/weight" in events.Tags()["scalars"]


def test_signatures_are_tensorboards() -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from torch.utils.tensorboard import SummaryWriter

    for name in ("add_scalar", "add_scalars", "flush", "close"):
        ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (CSVWriter, SummaryWriter))
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]
