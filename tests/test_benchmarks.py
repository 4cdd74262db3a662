"""Tests that the benchmark commands run to their end and count correctly. No test asserts a time."""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from libraries import timm_class
from torch import nn

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
from benchmarks import (
    algorithms,
    clip,
    gpu_report,
    host,
    host_dtensor,
    model,
    on_gpu,
    report,
    roofline,
    shapes,
    step,
    timing,
)
from benchmarks.__main__ import main
from benchmarks.assembly import AMDGCN, SASS, CommonCase, common_case
from benchmarks.gpu import Clock
from benchmarks.tensors import packed_parameters
from torch_gd._engine import backend

ROOT = Path(__file__).parent.parent
needs_triton = pytest.mark.skipif(backend.launch is None, reason="Triton is not installed")


def benchmark(*arguments: str, interpret: bool, folder: Path = ROOT) -> str:
    """Run a command, if need be in a process of its own, started in `folder`; return what it printed."""
    if interpret and backend.interpreted():
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            main([*arguments])
        return printed.getvalue()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "benchmarks", *arguments]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


# --- The commands -----------------------------------------------------------------------------------------------------


@needs_triton
def test_host(tmp_path: Path) -> None:
    printed = benchmark("host", "--quick", "--results", str(tmp_path), interpret=False)
    rows = json.loads((tmp_path / "host.json").read_text())["rows"]
    assert {(row["algorithm"], row["tensors"]) for row in rows} == {
        (algorithm.label, n) for algorithm in (*algorithms.ALGORITHMS, host.ON_DEVICE) for n in (1, 30)
    }
    by_label = {algorithm.label: algorithm for algorithm in (*algorithms.ALGORITHMS, host.ON_DEVICE)}
    for row in rows:
        theirs = set(by_label[row["algorithm"]].makers(timing.CPU, "fused", "foreach")) - {"ours"}
        assert theirs == {name for name in row if name.startswith(("torch", "timm"))}
        assert 0 < row["ours"]["all"]["p10"] <= row["ours"]["all"]["median"] <= row["ours"]["all"]["p90"]
    assert printed.strip() in (tmp_path / "host.md").read_text()


@needs_triton
def test_host_dtensor(tmp_path: Path) -> None:
    """Every implementation is timed or says why not, clipped and not, with torch's kernels and with ours."""
    printed = benchmark("host", "--dtensor", "--quick", "--results", str(tmp_path), interpret=False)
    rows = json.loads((tmp_path / "host_dtensor.json").read_text())["rows"]
    assert [(row["clipped"], row["route"], row["algorithm"]) for row in rows] == [
        (clipped, route, algorithm.label)
        for clipped in (False, True)
        for route in host_dtensor.ROUTES
        for algorithm in host.DTENSORS
    ]
    for row in rows:
        times = {
            name: row[name]["median"]
            for name in ("ours", "plain", *host_dtensor.TORCHS)
            if "median" in row.get(name, "")
        }
        assert times.keys() - {"fused"} == {"ours", "plain", "foreach", "default"}
        assert ("fused" in times) == row["algorithm"].startswith("AdamW")
        if row["algorithm"] in ("SGD momentum", "Adagrad"):  # torch cannot spread their fused operators
            assert row["fused"]["failed"].startswith("NotImplementedError: Operator aten._fused_")
        best = min(times[name] for name in host_dtensor.TORCHS if name in times)
        assert row["ratios"]["plain"] == times["ours"] / times["plain"]
        assert row["ratios"]["best"] == times["ours"] / best
    assert "NotImplementedError: …" in printed
    assert printed.strip() in (tmp_path / "host_dtensor.md").read_text()


def test_a_missed_goal_and_a_failure_are_named() -> None:
    ours = {"median": 2e-6, "p10": 1e-6, "p90": 3e-6}
    figures = {"ours": ours, "plain": {"median": 1e-6}, "fused": {"median": 4e-6}, "default": {"failed": "E: no luck"}}
    ratios = host_dtensor.ratios(figures)
    assert ratios == {"fused": 0.5, "best": 0.5, "plain": 2.0}
    what = {"algorithm": "AdamW", "clipped": True, "route": "our kernels", "goals": {"fused": 0.25, "plain": 2.5}}
    text = host_dtensor.markdown([{**what, **figures, "ratios": ratios}] * 2)
    missed = "AdamW, clipped, our kernels: 0.50 of fused"
    assert text.endswith(f"Goals missed: {missed}; {missed}.\n\n- AdamW, torch default: E: no luck")


def test_cpu(tmp_path: Path) -> None:
    benchmark("cpu", "--quick", "--threads", "1", "--results", str(tmp_path), interpret=False)
    rows = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert len(rows) == 4 * len(algorithms.ALGORITHMS)
    for row in rows:
        theirs = algorithms.BY_LABEL[row["algorithm"]].makers(timing.CPU).keys() - {
            "ours",
            "torch default",
            "timm default",
        }
        if theirs:
            best = min(row[name]["median"] for name in theirs)
            assert row[row["best"]]["median"] == best
            assert row["ratio"] == pytest.approx(row["ours"]["median"] / best)


@needs_triton
def test_gpu_without_one(tmp_path: Path) -> None:
    """Run all of `gpu` on tiny tensors: every row is measured, ours in one launch; all three files are written."""
    printed = benchmark("gpu", "--device", "cpu", "--quick", "--results", str(tmp_path), interpret=True)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["failed"] for row in rows if "failed" in row and row["implementation"] in ("ours", "torch fused")] == []
    ours = [row for row in rows if row["implementation"] == "ours"]
    assert len(ours) == 5 * 2 * 2
    assert {row["launches"] for row in ours} == {1}
    assert (tmp_path / "gpu.png").stat().st_size > 0
    text = (tmp_path / "gpu.md").read_text()
    assert "TRITON_INTERPRET=1" in text
    assert torch.__version__ in text
    for package in algorithms.OTHERS:
        assert algorithms.installed(package) or f"skipped: {package}" in printed
    assert printed.rstrip().endswith("Launches a step: 1.")  # the summary comes last


@needs_triton
def test_clip_without_a_gpu(tmp_path: Path) -> None:
    """Check our launches, whatever the tensors: one update, one pass over the gradients, one sum of its results."""
    benchmark("clip", "--device", "cpu", "--quick", "--results", str(tmp_path), interpret=True)
    rows = json.loads((tmp_path / "clip.json").read_text())["rows"]
    assert len(rows) == 5 * 2 * 2
    for row in rows:
        assert row["launches"] == {"update_kernel": 1, "partial_kernel": 1, "coefficient_kernel": 1}
        assert row["bytes"]["ours"] == row["bytes"]["theirs"] - 2 * (4 if row["dtype"] == "float32" else 2)
        assert row["ratio"] == pytest.approx(row["theirs"]["median"] / row["ours"]["median"])


@needs_triton
def test_codegen(tmp_path: Path) -> None:
    arguments = ["codegen", "--target", "sm_90", "--dtype", "float32", "--results", str(tmp_path)]
    printed = benchmark(*arguments, interpret=False)
    rows = json.loads((tmp_path / "codegen.json").read_text())["rows"]
    assert {(row["target"], row["dtype"]) for row in rows} == {("sm_90", "float32")}
    assert len({row["variant"] for row in rows}) == len(rows) >= 18  # the rules, and the kernels that measure
    assert "PREDICTED" in printed


MODELS = """
import torch
from torch import nn

def network():
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))

def list_of_parameters():
    return [torch.nn.Parameter(torch.ones(3, dtype=torch.float64))]

def nothing():
    return []

def frozen():
    return network().requires_grad_(False)

def number():
    return 3

def words():
    return {"weight": torch.ones(1)}

def integers():
    return [torch.ones(3, dtype=torch.int64)]

def raises():
    raise ValueError("no luck\\nand a second line")

def raises_late():
    yield torch.ones(1)
    raise ValueError("no luck")

value = 3
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a module of models into a folder of its own, make that the current one and return it."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "my_models.py").write_text(MODELS)
    (folder / "my_broken.py").write_text("import no_such_library")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    return folder


def test_step(models: Path, tmp_path: Path) -> None:
    """Time a module of the current folder; the default optimizers stand beside each of torch's implementations."""
    arguments = ["step", "--model", "my_models:network", "--device", "cpu", "--seconds", "0.01"]
    printed = benchmark(*arguments, "--results", str(tmp_path / "results"), interpret=False, folder=models)
    rows = json.loads((tmp_path / "results/step.json").read_text())["rows"]
    torchs = ["torch fused", "torch foreach", "torch default"]
    assert [(row["algorithm"], row["implementation"]) for row in rows] == [
        (label, name) for label in ("AdamW", "SGD momentum") for name in ("ours", *torchs)
    ]
    for row in rows:
        assert 0 < row["time"]["p10"] <= row["time"]["median"] <= row["time"]["p90"]
        assert ("ratio" in row) == (row["implementation"] != "ours")
        ratio = row.get("ratio", {"p10": 1, "median": 1, "p90": 1})
        assert 0 < ratio["p10"] <= ratio["median"] <= ratio["p90"]
    assert "4 tensors, 58 elements, float32" in printed
    assert printed.strip() in (tmp_path / "results/step.md").read_text()


def test_step_of_parameters_in_another_dtype_writes_nothing(models: Path) -> None:
    arguments = ["--device", "cpu", "--seconds", "0.01", "--dtype", "bfloat16", "--optimizer", "RMSprop", "NAG"]
    printed = benchmark("step", "--model", "my_models:list_of_parameters", *arguments, interpret=False, folder=models)
    assert "1 tensors, 3 elements, bfloat16" in printed
    assert [line.split("|")[1:3] for line in printed.splitlines() if line.startswith(("| RMS", "| NAG"))] == [
        [" RMSprop   ", "           ours "],
        [" RMSprop   ", "  torch foreach "],  # torch has it not fused
        [" RMSprop   ", "  torch default "],
        [" NAG       ", "           ours "],
        [" NAG       ", "    torch fused "],
        [" NAG       ", "  torch foreach "],
        [" NAG       ", "  torch default "],
    ]
    assert sorted(path.suffix for path in models.iterdir() if path.name != "__pycache__") == [".py", ".py"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_models", "'my_models' is not of the form package.module:function"),
        ("my_models:", "'my_models:' is not of the form package.module:function"),
        (":network", "':network' is not of the form package.module:function"),
        ("no.such:network", "cannot import 'no.such': ModuleNotFoundError: No module named 'no'"),
        (".relative:network", "cannot import '.relative': TypeError"),
        ("my_broken:network", "cannot import 'my_broken': ModuleNotFoundError: No module named 'no_such_library'"),
        ("my_models:missing", "'my_models' has no function 'missing'"),
        ("my_models:value", "'my_models' has no function 'value'"),
        ("my_models:raises", "my_models:raises raised ValueError: no luck"),
        ("my_models:raises_late", "what the function returned raised ValueError: no luck"),
        ("my_models:nothing", "the function returned no parameters that require a gradient"),
        ("my_models:frozen", "the function returned no parameters that require a gradient"),
        ("my_models:number", "the function returned int, not a module or an iterable of tensors"),
        ("my_models:words", "the function returned an iterable of str, not of tensors"),
        ("my_models:integers", "cannot time these parameters on cpu: RuntimeError: only Tensors of floating point"),
        ("math:sqrt", "math:sqrt raised TypeError"),
    ],
)
def test_a_model_that_cannot_be_timed_is_a_one_line_error(
    models: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["step", "--device", "cpu", "--model", name])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"python -m benchmarks step: error: {message}")
    assert printed.err.count("\n") == 1


def test_the_models_own_parameters_are_timed() -> None:
    """Keep order and memory, leave out frozen ones and repetitions; gradients have the parameter's strides."""
    network = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(4, 4))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    network[1].weight.requires_grad_(False)
    weight, bias, frozen, last = network.parameters()
    assert [id(p) for p in model.trainable(network)] == [id(weight), id(bias), id(last)]
    plain = torch.ones(2)
    assert [id(p) for p in model.trainable([weight, plain, weight, frozen])] == [id(weight), id(plain)]
    for p, made in zip((weight, bias, last), model.prepare([weight, bias, last], torch.device("cpu"), None)):
        assert made.data_ptr() == p.data_ptr()
        assert made.grad is not None
        assert (made.grad.shape, made.grad.dtype, made.grad.stride()) == (p.shape, p.dtype, p.stride())


def test_an_implementation_that_fails_is_reported() -> None:
    """Give torch's class an option that it does not have: ours is still measured."""
    algorithm = algorithms.Algorithm("odd", "AdamW", 2, {}, {"no_such_option": 1})
    params = model.prepare([torch.ones(2)], torch.device("cpu"), None)
    ours, *torchs = step.rows([algorithm], params, seconds=0.001)
    assert "time" in ours
    assert [row["implementation"] for row in torchs] == ["torch foreach", "torch default"]
    assert all("no_such_option" in row["failed"] for row in torchs)
    assert "- odd, torch default: TypeError" in step.markdown([ours, *torchs])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["cpu", "--threads", "0"], "--threads: must be 1 or more"),
        (["clip", "--device", "tpu"], "--device: must be cpu, cuda or cuda:N"),
        (["clip", "--device", "mps"], "--device: must be cpu, cuda or cuda:N"),
        (["clip", "--seconds", "nan"], "--seconds: must be a finite number above 0"),
        (["step", "--model", "torch.nn:PReLU", "--seconds", "0"], "--seconds: must be a finite number above 0"),
        (["step", "--model", "torch.nn:PReLU", "--optimizer", "Lamb"], "--optimizer: invalid choice"),
        (["step", "--model", "torch.nn:PReLU", "--dtype", "int8"], "--dtype: invalid choice"),
        (["step", "--model", "torch.nn:PReLU", "--seconds", "1e308"], "--seconds: must be a finite number above 0"),
        (["step", "--model", "torch.nn:PReLU", "--results", ""], "--results: cannot write to ''"),
        (["cpu", "--results", "my_models.py"], "--results: cannot write to 'my_models.py'"),
        (["gpu", "--results", "my_models.py/results"], "--results: cannot write to 'my_models.py/results'"),
    ],
)
def test_a_bad_value_is_named(
    models: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert f"error: argument {named}" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_still_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        report.publish(tmp_path / "file", "cpu", "python -m benchmarks cpu", [], "the table")
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == "the table\n"
    assert printed.err.startswith("python -m benchmarks cpu: the results could not be written: ")


def test_ratios_of_a_file_that_is_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cpu.json").write_text("[1, 2")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SystemExit) as stopped:
            main(["ratios", "--results", str(folder)])
        assert stopped.value.code == 2
        assert "cannot draw" in capsys.readouterr().err


@pytest.mark.skipif(not backend.interpreted(), reason="these messages are for interpreted kernels")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpu", "--device", "cpu"], "--results"),
        (["gpu"], "TRITON_INTERPRET=1"),
        (["clip", "--device", "cpu"], "--results"),
        (["host"], "TRITON_INTERPRET"),
        (["host", "--dtensor"], "TRITON_INTERPRET"),
        (["cpu"], "TRITON_INTERPRET"),
        (["codegen"], "TRITON_INTERPRET"),
        (["step", "--device", "cpu", "--model", "torch.nn:PReLU"], "TRITON_INTERPRET"),
    ],
)
def test_a_command_says_what_it_needs(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(arguments)


# --- The parts of `make gpu` ------------------------------------------------------------------------------------------

PASSES, FAILS = "print('two', 'words', sep='\\n')", "print('FAILED tests/a.py::b', flush=True); 1 / 0"


def part(code: str, seconds: int = 1) -> on_gpu.Part:
    return on_gpu.Part(("-c", code), seconds, ())


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, on_gpu.Part]:
    """Let `main` find a GPU, and parts that take no time."""
    table = {"first": part(FAILS), "second": part(PASSES), "third": part("open('/no/such/file')")}
    monkeypatch.setattr(on_gpu, "parts", lambda: table)
    monkeypatch.setattr(on_gpu, "WHERE", """print('{"GPU": "H100", "torch": "2.11.0"}')""")
    monkeypatch.delenv("OUT", raising=False)
    return table


def test_every_test_file_is_in_one_part() -> None:
    named = [argument for each in on_gpu.parts().values() for argument in each.command if argument.startswith("tests/")]
    assert sorted(named) == sorted(f"tests/{path.name}" for path in Path(__file__).parent.glob("test_*.py"))


def test_a_fault_in_one_part_does_not_end_the_others(
    parts: dict[str, on_gpu.Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keep each part's output and exit status, say so last, and run only what has not passed the next time."""
    out, folder = tmp_path / "out", tmp_path / "results"
    out.mkdir()
    monkeypatch.setenv("OUT", str(out))
    with pytest.raises(SystemExit) as stopped:
        on_gpu.main(["--results", str(folder)])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "2 failed, 1 passed" in printed
    for said in (
        "## first: failed\n    FAILED tests/a.py::b",
        "ZeroDivisionError",
        "## second: passed\n    two\n    words",
    ):
        assert said in printed
    assert "## third: failed" in printed
    assert "FileNotFoundError" in printed
    assert "\nexit status 1 after " in (folder / "third.txt").read_text()
    assert printed.endswith((out / "summary.md").read_text())
    with tarfile.open(out / "on_gpu.tar.gz") as archive:
        assert {Path(name).name for name in archive.getnames()} == {"results", "summary.md"} | {
            f"{n}.txt" for n in parts
        }
    parts |= {"first": part(PASSES), "second": part(FAILS), "third": part(PASSES)}
    on_gpu.main(["--results", str(folder)])
    printed = capsys.readouterr().out
    assert "second: has passed before" in printed
    assert "3 passed" in printed
    with pytest.raises(SystemExit):
        on_gpu.main(["second", "--results", str(folder)])  # what is named runs again
    assert "## second: failed" in capsys.readouterr().out


def test_no_part_starts_that_may_end_too_late(
    parts: dict[str, on_gpu.Part], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted part takes some more seconds to say what it reached: the third, of 3000, might not have them."""
    parts |= {"first": part(PASSES, 4000), "third": part(PASSES, 3000)}
    with pytest.raises(SystemExit) as stopped:
        on_gpu.main(["--results", str(tmp_path), "--seconds", "3010"])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "first: not started, it may take 4000 s" in printed
    assert "third: not started, it may take 3000 s" in printed
    assert "2 not run, 1 passed" in printed


@pytest.mark.parametrize(
    ("handler", "grace", "said"),
    [
        ("lambda *_: sys.exit(print('reached') or 3)", on_gpu.GRACE, ["ready", "reached", "", "exit status 3"]),
        ("signal.SIG_IGN", 0.01, ["ready", "", "exit status -9"]),
    ],
    ids=["says what it reached", "is killed"],
)
def test_a_part_that_hangs_is_stopped(
    handler: str, grace: float, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import signal, sys, time; signal.signal(signal.SIGINT, {handler}); print('ready'); time.sleep(1e6)"
    log = tmp_path / "part.txt"

    class Ready(subprocess.Popen[bytes]):
        """A process whose limit is over once it has said that it is ready, however long that takes."""

        def wait(self, timeout: float | None = None) -> int:
            if timeout == 7:
                while "ready" not in log.read_text().splitlines():
                    assert self.poll() is None, log.read_text()
                    time.sleep(0.01)
                raise subprocess.TimeoutExpired(self.args, timeout)
            return super().wait(timeout)

    monkeypatch.setattr(on_gpu, "GRACE", grace)
    monkeypatch.setattr(subprocess, "Popen", Ready)
    on_gpu.run(["-c", code], log, "here", limit=7)
    _, *lines = log.read_text().splitlines()
    assert [line.partition(" after ")[0] for line in lines] == said
    assert lines[-1].endswith(", stopped at its limit of 7 s")
    assert on_gpu.read(log, "here")[0] == "failed"
    assert on_gpu.read(log, "elsewhere") == ("not run", [])


def test_without_a_gpu_nothing_runs(parts: dict[str, on_gpu.Part], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu, "WHERE", """print('{"GPU": "none"}')""")
    with pytest.raises(SystemExit, match="no GPU, so nothing was run"):
        on_gpu.main([])
    with pytest.raises(SystemExit):
        on_gpu.main(["fourth"])


# --- What they count --------------------------------------------------------------------------------------------------


def test_resnet_50_has_its_papers_size() -> None:
    assert (len(shapes.resnet()), sum(map(math.prod, shapes.resnet()))) == (161, 25_557_032)


def test_the_transformer_has_one_point_three_billion_parameters() -> None:
    """Count 12 d² + 13 d for each layer, two embeddings and a last norm, where d is 2,048."""
    width = 2048
    expected = 24 * (12 * width**2 + 13 * width) + (50257 + 2048) * width + 2 * width
    assert sum(map(math.prod, shapes.transformer())) == expected
    assert 1.3e9 < expected < 1.33e9


def test_workloads_are_the_same_kinds_in_both_sizes() -> None:
    for itemsize in (2, 4):
        assert shapes.workloads(itemsize).keys() == shapes.tiny_workloads(itemsize).keys()
        assert math.prod(shapes.workloads(itemsize)["1 × 1 GB"][0]) * itemsize == 10**9


def ours_and_theirs(algorithm: algorithms.Algorithm) -> tuple[algorithms.Make, algorithms.Make]:
    """Return what makes ours and its counterpart's for-loop; skip the test where timm would be that and is missing."""
    if algorithm.library == "timm":
        timm_class(algorithm.their_name or algorithm.name)
    return algorithm.ours, algorithm.theirs(**({"foreach": False} if algorithm.has("for-loop", timing.CPU) else {}))


@pytest.mark.parametrize("algorithm", algorithms.ALGORITHMS, ids=lambda algorithm: algorithm.label)
def test_states_are_counted_as_they_have_them(algorithm: algorithms.Algorithm) -> None:
    p = torch.ones(8, requires_grad=True)
    for make in ours_and_theirs(algorithm):
        p.grad = torch.ones(8)
        optimizer = make([p])
        optimizer.step()
        assert sum(value.shape == p.shape for value in optimizer.state[p].values()) == algorithm.states


@pytest.mark.parametrize("algorithm", algorithms.ALGORITHMS, ids=lambda algorithm: algorithm.label)
def test_ours_and_theirs_do_the_same_work(algorithm: algorithms.Algorithm) -> None:
    ended = []
    for make in ours_and_theirs(algorithm):
        p = torch.linspace(-1, 1, 8).requires_grad_()
        optimizer = make([p])
        for factor in (1, 2, 3):
            p.grad = torch.linspace(2, -1, 8) * factor
            optimizer.step()
        ended.append(p.detach())
    torch.testing.assert_close(*ended, rtol=0, atol=3 * 4 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parameters_lie_as_torchs_allocator_would_place_them(dtype: torch.dtype) -> None:
    params = packed_parameters([(3, 5), (1000,), (1,)], dtype, torch.device("cpu"))
    assert [tuple(p.shape) for p in params] == [(3, 5), (1000,), (1,)]
    for tensors in (params, [p.grad for p in params]):
        addresses = [t.data_ptr() for t in tensors if t is not None]
        assert all((address - addresses[0]) % 512 == 0 for address in addresses)
        assert sorted(addresses) == addresses
        assert len(set(addresses)) == 3
    assert all(p.is_leaf and p.grad is not None and p.grad.shape == p.shape for p in params)


def test_the_spread_is_that_of_the_samples() -> None:
    assert timing.spread(list(range(100, -1, -1))) == timing.Spread(50, 10, 90)


def test_bursts_take_turns() -> None:
    called: list[str] = []
    times = timing.interleaved({name: lambda name=name: called.append(name) for name in "ab"}, 2, 3)  # type: ignore[misc]
    assert "".join(called) == "ab" * 2 + "aaabbb" * 2
    assert [[len(burst) for burst in bursts] for bursts in times.values()] == [[3, 3], [3, 3]]


def test_the_random_order_of_each_draw_reaches_the_functions() -> None:
    """Make the functions anew for each draw; each list of bursts then holds those of all draws."""
    drawn: list[float] = []

    def new_functions(order: Random) -> dict[str, timing.Step]:
        drawn.append(order.random())
        return {name: lambda: None for name in ("ab" if len(drawn) % 2 else "ba")}

    times = timing.over_draws(new_functions, draws=3, rounds=2, burst=4)
    assert len(set(drawn)) == 3
    assert {name: [len(burst) for burst in bursts] for name, bursts in times.items()} == {"a": [4] * 6, "b": [4] * 6}


def test_the_clock_shares_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("benchmarks.gpu.monotonic", lambda: now[0])
    clock = Clock(100.0, 4, started=0.0)
    assert clock.next_share() == 25
    now[0] = 40.0  # the first took longer than its share
    assert clock.next_share() == 20
    now[0] = 101.0
    assert clock.next_share() < 0


def measured(implementation: str, median: float, share: float) -> dict[str, Any]:
    """Return a row as `gpu` makes it."""
    row: dict[str, Any] = {"workload": "1 × 1 GB", "dtype": "float32", "algorithm": "AdamW"}
    row |= {"time": {"median": median, "p10": median, "p90": median}, "host": {"median": 1e-6}, "share": share}
    row |= {"launches": 1 if implementation == "ours" else None, "extra_bytes": 0, "beyond_cache": True}
    return row | {"implementation": implementation}


def test_the_table_and_the_summary_say_what_the_rows_say() -> None:
    failed = {**measured("torch foreach", 1.0, 1.0), "failed": "OutOfMemoryError: too much"}
    del failed["time"], failed["host"]
    lines = gpu_report.rivals([measured("ours", 1e-3, 0.93), measured("torch fused", 2e-3, 0.46), failed])
    text = gpu_report.markdown(lines)
    assert "93.0%" in text
    assert "0.50" in text
    assert "AdamW, torch foreach: OutOfMemoryError: too much" in text
    summary = gpu_report.summary(lines)
    assert "1 of 1 rows at 90% of copy bandwidth or more" in summary
    assert "torch fused's: geometric mean 0.50, ahead in 1 of 1 rows" in summary
    assert "foreach" not in summary


def test_a_failure_of_ours_does_not_end_the_report() -> None:
    row = {"workload": "1 × 1 GB", "dtype": "float32", "algorithm": "SGD", "implementation": "ours", "failed": "why"}
    lines = gpu_report.rivals([row])
    assert "why" in gpu_report.markdown(lines)
    assert gpu_report.summary(lines).startswith("Measured 0 of 1 rows.")


def test_clipping_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row's failure ends no other, and large tensors are summed up without it."""
    time = {"median": 1e-3, "p10": 1e-3, "p90": 1e-3}

    def measure(algorithm: algorithms.Algorithm, params: list[torch.Tensor], seconds: float) -> dict[str, Any]:
        if algorithm.name == "SGD":
            raise RuntimeError("out of luck\nand a second line")
        return {"ours": time, "theirs": time, "ratio": 1.25 + len(params), "launches": {}}

    monkeypatch.setattr(clip, "measure", measure)
    text = clip.markdown(clip.rows(True, torch.device("cpu"), 1.0))
    assert text.count("RuntimeError: out of luck\n") == 5 * 2
    assert text.endswith("Large tensors: their time is 2.25 to 17.25 times ours (aim: 1.25).")


def test_table_columns_line_up() -> None:
    lines = report.table(["a", "b"], [["long cell", "1"], ["x", "1,000"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| --------- | ----: |"


# --- What `codegen` counts in machine code ----------------------------------------------------------------------------

LISTING = """
.text.update_kernel:
        /*0000*/                   LDG.E.64 R2, desc[UR4][R2.64] ;
        /*0010*/               @P0 BRA `(.L_x_0) ;
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   LDG.E.128 R8, desc[UR4][R2.64+0x10] ;
        /*0040*/                   FADD R1, R0, R0 ;
        /*0050*/                   FADD R12, R6, R0 ;
        /*0060*/                   LDG.E.128 R16, desc[UR4][R2.64+0x20] ;
        /*0070*/              @!P1 BRA `(.L_x_1) ;
        /*0080*/                   CALL.REL.NOINC `(slow) ;
        /*0090*/                   BRA `(.L_x_2) ;
.L_x_1:
        /*00a0*/                   FMUL R4, R4, R4 ;
        /*00a4*/                   FMUL R4, R4, R4 ;
        /*00a8*/                   FMUL R4, R4, R4 ;
.L_x_2:
        /*00b0*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*00c0*/                   EXIT ;
.L_x_0:
        /*00d0*/                   LDG.E R0, desc[UR4][R2.64] ;
        /*00e0*/                   STG.E desc[UR4][R2.64], R0 ;
        /*00f0*/                   EXIT ;
"""


def test_the_common_case_of_sass() -> None:
    """Count two instructions before the branch and eleven after it, on the path without the call, though it is longer.

    Two loads are in flight: R6 belongs to the first and is read after the second.
    """
    assert common_case(LISTING, SASS) == CommonCase(head=2, body=11, in_flight=2, accesses=(16, 16, 16, 16))


def test_a_narrow_access_is_seen() -> None:
    narrow = LISTING.replace("STG.E.128", "STG.E.64")
    assert common_case(narrow, SASS).accesses == (16, 16, 16, 8)
    with pytest.raises(ValueError, match="128-bit"):
        common_case(LISTING.replace(".128", ""), SASS)


def test_the_common_case_of_amd_code() -> None:
    """Count no scalar instruction; a wait that leaves every load so far outstanding is no wait for one."""
    listing = """
update_kernel:
	s_load_dwordx2 s[2:3], s[0:1], 0x0
	s_cbranch_vccnz .LBB0_1
	global_load_dwordx4 v[4:7], v[0:1], off
	s_waitcnt vmcnt(1)
	global_load_dwordx4 v[8:11], v[0:1], off offset:16
	s_waitcnt vmcnt(1)
	v_add_f32_e32 v4, v4, v4
	global_load_dwordx4 v[12:15], v[0:1], off
	global_store_dwordx4 v[0:1], v[4:7], off
	s_endpgm
.LBB0_1:
	global_load_ushort v0, v[0:1], off
	s_endpgm
"""
    assert common_case(listing, AMDGCN) == CommonCase(head=0, body=5, in_flight=2, accesses=(16, 16, 16, 16))


@pytest.mark.parametrize(
    ("target", "registers", "programs"),
    # NVIDIA: 65,536 registers are 512 for each thread of a program; allocated in steps of 8, so 33 count as 40. At most
    # 2,048 threads, that is 16 programs. AMD: a program has one wave on each SIMD, which has 512 registers per lane.
    [("sm_90", 24, 16), ("sm_90", 33, 12), ("sm_90", 72, 7), ("sm_90", 128, 4), ("gfx942", 64, 8), ("gfx942", 65, 7)],
)
def test_occupancy(target: str, registers: int, programs: int) -> None:
    assert roofline.GPUS[target].resident_programs(registers, num_warps=4) == programs


def test_an_h100_issues_ten_instructions_a_byte() -> None:
    """Divide 132 × 128 × 1.755 GHz by 0.9 · 3.35 TB/s."""
    assert roofline.GPUS["sm_90"].instructions_a_byte == pytest.approx(9.8, abs=0.1)


def test_each_bound_can_be_the_lowest() -> None:
    gpu = roofline.GPUS["sm_90"]
    assert roofline.predict(gpu, 16, 1024, 28, 28, 50) == roofline.Prediction(1.0, "memory")
    assert roofline.predict(gpu, 16, 1024, 56, 28, 50) == roofline.Prediction(0.5, "memory")
    assert roofline.predict(gpu, 1, 128, 28, 28, 50).limit == "latency"
    issue = roofline.predict(gpu, 16, 1024, 28, 28, 2 * 28 * gpu.instructions_a_byte)
    assert (issue.limit, issue.share) == ("issue", pytest.approx(0.5))
