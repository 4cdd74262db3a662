"""Logs: a CSV writer beside TensorBoard's own writer, and reading the file back."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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


@pytest.mark.parametrize("step", [3.0, 3.7, torch.tensor(3), torch.tensor([3]), np.int64(3)])
def test_steps_are_ints_as_in_tensorboards_files(tmp_path: Path, step: Any) -> None:
    with CSVWriter(tmp_path / "run.csv") as writer:
        writer.add_scalar("loss", True, step)
    assert [scalar[:3] for scalar in read_csv(tmp_path / "run.csv")] == [(3, "loss", 1.0)]


HEADER = "step,tag,value,wall_time\r\n"
ONE, TWO = "1,loss,0.1,1.5\r\n", '2,"a\nb",0.3333333333333333,1.5\r\n'
TORN = [HEADER[:7], "", HEADER + ONE + "2,lo", HEADER + ONE + TWO[:-1], HEADER + ONE + TWO[:6], HEADER + ONE + '2,"ä']


@pytest.mark.parametrize("text", TORN)
def test_a_last_line_that_was_left_unfinished_is_taken_out(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.csv"
    path.write_bytes(text.encode()[:-1] if text.endswith("ä") else text.encode())  # half a character
    kept = [Scalar(1, "loss", 0.1, 1.5)] if ONE in text else []
    if kept:
        assert read_csv(path) == kept
    with CSVWriter(path, append=True) as writer:
        writer.add_scalar("a\nb", 1 / 3, 2, walltime=1.5)
    assert path.read_bytes().decode() == HEADER + (ONE if kept else "") + TWO


def test_a_run_that_is_resumed_purges_what_it_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    for first, last in ((1, 6), (4, 7)):  # killed after step 5, and resumed from the checkpoint after step 3
        with CSVWriter(path, append=True, purge_step=first) as writer:
            for step in range(first, last):
                writer.add_scalar("loss", 10 * first + step, step)
            writer.add_scalar("without a step", first)
    assert [scalar[:3] for scalar in read_csv(path)] == [
        (1, "loss", 11),
        (2, "loss", 12),
        (3, "loss", 13),
        (None, "without a step", 1),
        (4, "loss", 44),
        (5, "loss", 45),
        (6, "loss", 46),
        (None, "without a step", 4),
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["run.csv"]


def test_a_line_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text(HEADER + "1,loss,0.12,loss,0.1,1.5\r\n" + ONE, newline="")
    for use in (read_csv, lambda path: CSVWriter(path, append=True)):
        with pytest.raises(ValueError, match=r"line 2 of .*run\.csv is '1,loss,0.12,loss,0.1,1.5'"):
            use(path)


WRONG: list[tuple[Callable[[Path, CSVWriter], Any], type[Exception], str]] = [
    (lambda path, writer: CSVWriter(1), TypeError, "path is 1, not the name of a file"),
    (lambda path, writer: read_csv(0), TypeError, "path is 0, not the name of a file"),
    (lambda path, writer: CSVWriter(path, append="yes"), TypeError, "append is 'yes', neither True nor False"),
    (lambda path, writer: CSVWriter(path, flush_secs=-1), ValueError, "flush_secs: -1"),
    (lambda path, writer: CSVWriter(path, flush_secs=math.nan), ValueError, "flush_secs: nan"),
    (lambda path, writer: CSVWriter(path, True, purge_step=1.5), ValueError, "purge_step: 1.5"),
    (lambda path, writer: CSVWriter(path, purge_step=3), ValueError, "purge_step: 3; without append=True"),
    (lambda path, writer: writer.add_scalar(3, 0.5), TypeError, "tag is 3, not a name"),
    (lambda path, writer: writer.add_scalar("a", None), TypeError, "scalar_value: None; it must be a number"),
    (
        lambda path, writer: writer.add_scalar("a", torch.ones(2)),
        TypeError,
        r"scalar_value: a tensor of shape \(2,\)",
    ),
    (lambda path, writer: writer.add_scalar("a", 0.5, "3"), TypeError, "global_step: '3'; it must be a number"),
    (lambda path, writer: writer.add_scalar("a", 0.5, math.nan), ValueError, "global_step: nan"),
    (lambda path, writer: writer.add_scalar("a", 0.5, 3, "now"), TypeError, "walltime: 'now'; it must be a number"),
    (lambda path, writer: writer.add_scalars("a", [0.5]), TypeError, r"tag_scalar_dict is \[0.5\], not a mapping"),
    (lambda path, writer: writer.add_scalars(None, {"a": 1}), TypeError, "main_tag is None, not a name"),
    (
        lambda path, writer: writer.add_scalars("m", {"a": 1.0, "b": None}),
        TypeError,
        r"tag_scalar_dict\['b'\]: None; it must be a number",
    ),
    (lambda path, writer: writer.add_scalars("m", {"a": 1.0, 2: 1.0}), TypeError, "a tag of tag_scalar_dict is 2"),
    (lambda path, writer: log_scalars(writer, {"a": 1.0, "b": "c"}), TypeError, r"scalars\['b'\]: 'c'; it must be a n"),
    (lambda path, writer: log_scalars(writer, {"a": 1.0, 2: 1.0}), TypeError, "a tag of scalars is 2, not a name"),
    (lambda path, writer: log_scalars(path, {}), TypeError, "it has no add_scalar"),
    (lambda path, writer: log_scalars(writer, None), TypeError, "scalars is None, not a mapping"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_calls_are_named_and_write_nothing(
    tmp_path: Path, call: Callable[[Path, CSVWriter], Any], error: type[Exception], message: str
) -> None:
    path = tmp_path / "run.csv"
    with CSVWriter(path) as writer:
        writer.add_scalar("loss", 0.1, 1, walltime=1.5)
        writer.flush()
        with pytest.raises(error, match=message):
            call(path, writer)
    assert path.read_bytes().decode() == HEADER + ONE


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
