"""Tests that the examples train as torch.optim does, on every route, and refuse bad arguments in one line."""

import importlib
import importlib.util
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.distributed as dist

import torch_gd
from torch_gd.convergence.logs import read_csv

for library in ("matplotlib", "sklearn", "tqdm"):
    pytest.importorskip(library)
import optimizer_choices  # noqa: E402
import train_digits  # noqa: E402
from optimizer_choices import CHOICES  # noqa: E402

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed"
)
needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no process groups"
)
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}


@pytest.fixture(autouse=True)
def as_a_script(torch_path: None) -> Iterator[None]:
    """Use torch's route, as a script does on the CPU, and one thread, which makes losses equal to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def python(*args: str, interpret: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run a Python process that can import the examples."""
    inherited = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    environment = {
        **os.environ,
        **LOOPBACK,
        "TRITON_INTERPRET": "1" if interpret else "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *inherited]),
    }
    return subprocess.run([sys.executable, *args], cwd=REPOSITORY, env=environment, capture_output=True, text=True)


# --- The same loss curve on both routes -------------------------------------------------------------------------------
#
# Why the tolerance is 1e-5. Both routes compute one formula in float32 and round differently, by one or two ulp of a
# parameter per step: 2 · 2^-24 · 0.1 = 1.2e-8 at weights of 0.1, their root mean square here. Over 24 steps, unrelated
# errors add up to sqrt(24) · 1.2e-8 = 6e-8 per element. They change the loss by that times the gradient's norm, at most
# 9 here: 5e-7. Errors that all had one sign would change it by 24 · 1.2e-8 · 9 = 3e-6. Rounding the loss itself adds
# 2e-7, an ulp of a number near 2. The loss is smooth, so that no small error has a large effect. Measured: 3e-7 at
# most. A wrong rule exceeds the tolerance: Adam and AdamW differ by a decay of at most 2.5e-4 per step, and their
# losses by 7e-3.

EPOCHS = 6
NAMES = ("nag", "rmsprop", "adamw")  # interpreted steps are slow, and tests/test_parity.py has them all
LOSSES = """
import json, train_digits
from optimizer_choices import CHOICES, ours
from torch_gd._engine import backend
data = train_digits.load(samples=64)
losses = {
    name: train_digits.train(ours(name), data, CHOICES[name].digits, epochs=EPOCHS, batch_size=16).losses
    for name in NAMES
}
print(json.dumps([backend.interpreted(), losses]))
"""


def losses_by_optimizer(interpret: bool) -> dict[str, list[float]]:
    """Return the loss of each epoch, for each optimizer."""
    process = python("-c", f"EPOCHS, NAMES = {EPOCHS}, {NAMES}\n{LOSSES}", interpret=interpret)
    assert process.returncode == 0, process.stderr
    interpreted, losses = json.loads(process.stdout)
    assert interpreted == interpret
    return losses


@pytest.fixture(scope="module")
def both_routes() -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the losses by interpreted kernels, and those by torch's own implementations."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    return losses_by_optimizer(interpret=True), losses_by_optimizer(interpret=False)


@pytest.mark.parametrize("name", NAMES)
def test_interpreted_kernels_and_torchs_route_give_one_loss_curve(both_routes, name):
    interpreted, torchs = both_routes[0][name], both_routes[1][name]
    assert len(interpreted) == EPOCHS
    assert torchs[-1] < 0.9 * torchs[0]  # it trains, so that the curve depends on the steps
    assert interpreted == pytest.approx(torchs, rel=0, abs=1e-5)


# --- Digits -----------------------------------------------------------------------------------------------------------


def test_adamw_reaches_97_percent(tmp_path):
    picture = tmp_path / "digits.png"
    process = python("examples/train_digits.py", "--plot", str(picture))
    assert process.returncode == 0, process.stderr
    accuracy = re.search(r"test accuracy ([\d.]+)%", process.stdout)
    assert accuracy is not None, process.stdout
    assert float(accuracy[1]) >= 97
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_choices_are_all_optimizers():
    assert list(CHOICES) == torch_gd.list_optimizers()


@pytest.fixture(scope="module")
def few() -> train_digits.Digits:
    """Return so few digits that each optimizer can train on them."""
    return train_digits.load(samples=256)


@pytest.mark.parametrize("name", CHOICES)
def test_every_optimizer_trains_at_its_own_rate(name, few):
    curve = train_digits.train(optimizer_choices.ours(name), few, CHOICES[name].digits, epochs=6, batch_size=16)
    assert curve.losses == sorted(curve.losses, reverse=True)
    assert curve.accuracies[-1] >= 0.75  # it was 0.80 to 0.96 over all of them and three seeds


@pytest.mark.parametrize("name", CHOICES)
def test_torchs_counterpart_trains_to_the_same_losses(name, few):
    ours, torchs, lr = optimizer_choices.ours(name), optimizer_choices.torchs(name), CHOICES[name].digits
    if torchs is None:
        assert not hasattr(torch.optim, type(ours(torch.nn.Linear(1, 1), lr)).__name__)
        return
    losses, theirs = (train_digits.train(new, few, lr, epochs=2, batch_size=64).losses for new in (ours, torchs))
    assert losses == pytest.approx(theirs, rel=0, abs=1e-5)


def test_against_torch_prints_both_curves_and_their_difference(tmp_path, monkeypatch, capsys):
    settings = ["--samples", "100", "--epochs", "3", "--against-torch", "--plot", str(tmp_path / "digits.png")]
    monkeypatch.setattr(sys, "argv", ["train_digits.py", "--optimizer", "NAG", *settings])
    train_digits.main()
    out = capsys.readouterr().out
    rows = re.findall(r"^ *(\d+) +([\d.]+) +([\d.]+) +([\d.e+-]+)$", out, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [1, 2, 3]
    largest = re.search(r"largest difference of the losses: (\S+)", out)
    assert largest is not None, out
    assert float(largest[1]) == max(float(row[3]) for row in rows) < 1e-5


def test_the_difference_printed_is_the_largest(capsys):
    train_digits.print_side_by_side(train_digits.Curve([1.0, 0.5, 0.2], []), train_digits.Curve([1.0, 0.75, 0.3], []))
    assert "largest difference of the losses: 2.5e-01" in capsys.readouterr().out


def test_a_schedule_changes_the_curve_and_still_trains():
    """Warm up for nearly the whole run: the loss differs from that without a schedule, and still falls."""
    data, ours, lr = train_digits.load(samples=256), optimizer_choices.ours("adamw"), CHOICES["adamw"].digits
    plain = train_digits.train(ours, data, lr, epochs=2)
    for schedule in train_digits.SCHEDULES:
        warmup = 0 if schedule == "constant" else 15
        scheduled = train_digits.train(ours, data, lr, epochs=2, schedule=schedule, warmup=warmup)
        assert (scheduled.losses == plain.losses) == (schedule == "constant"), schedule
        assert scheduled.losses[-1] < 2.3, schedule  # chance is log(10)


def test_a_seed_gives_the_same_curve_and_another_seed_another():
    data, ours, lr = train_digits.load(samples=64), optimizer_choices.ours("adamw"), CHOICES["adamw"].digits
    first, again, other = (train_digits.train(ours, data, lr, epochs=1, seed=seed).losses for seed in (0, 0, 1))
    assert first == again != other


def test_no_image_is_both_in_training_and_test():
    data, few = train_digits.load(), train_digits.load(samples=10)
    assert data.images.shape == (1437, 1, 8, 8)
    assert data.test_images.shape == (360, 1, 8, 8)
    assert torch.equal(few.images, data.images[:10])
    assert torch.equal(few.test_labels, data.test_labels)
    training = {image.numpy().tobytes() for image in data.images}
    assert not any(image.numpy().tobytes() in training for image in data.test_images)


@pytest.mark.parametrize("samples", [0, -1, 1438])
def test_samples_out_of_range_are_refused(samples):
    with pytest.raises(ValueError, match="samples must be from 1 to 1437"):
        train_digits.load(samples=samples)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--optimizer", "tiger"], "--optimizer: invalid choice: 'tiger'"),
        (["--optimizer", "lion", "--against-torch"], "--against-torch: torch.optim has no lion to compare with"),
        (["--epochs", "0"], "--epochs"),
        (["--batch-size", "x"], "--batch-size"),
        (["--lr", "-1"], "--lr: must be a finite number from 0 up"),
        (["--lr", "nan"], "--lr: must be a finite number from 0 up"),
        (["--lr", "1e300"], "--lr: must be a finite number from 0 up"),
        (["--epochs", "9" * 20], "--epochs: must be below 2**31"),
        (["--seed", "9" * 20], "--seed: must be from -2**63"),
        (["--device", "meta"], "--device: cannot use 'meta'"),
        (["--samples", "1438"], "--samples: samples must be from 1 to 1437"),
        (["--device", "abacus"], "--device: cannot use 'abacus'"),
        (["--schedule", "cosine", "--warmup", "-1"], "--warmup: must be 0 or more"),
        (["--schedule", "cosine", "--warmup", "100", "--samples", "32"], "--warmup: there are only 15 steps"),
        (["--plot", "no/such/folder/digits.png"], "--plot: cannot write to"),
        (["--plot", "."], "--plot: cannot write to"),
        (["--plot", "digits.abc"], "--plot: 'digits.abc' must end in one of"),
    ],
)
def test_bad_arguments_are_named(arguments, named, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_digits.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        train_digits.main()
    assert stopped.value.code == 2
    assert f"argument {named}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "arguments", "named"),
    [
        ("depth", ["--steps", "0"], "--steps: must be 1 or more"),
        ("depth", ["--log", "."], "--log: cannot write to"),
        ("depth", ["--log", ""], "--log: cannot write to"),
        ("depth", ["--plot", "no/such/folder/a.png"], "--plot: cannot write to .*: No such file"),
        ("batch_variants", ["--share", "-1"], "--share: must be a finite number from 0 up"),
        ("batch_variants", ["--share", "1e308"], "--share: must be a finite number from 0 up"),
        pytest.param("train_fsdp", ["--batch-size", "3"], "--batch-size: must be a multiple of 2", marks=needs_gloo),
        pytest.param("train_fsdp", ["--save-every", "0"], "--save-every: must be 1 or more", marks=needs_gloo),
        pytest.param("train_fsdp", ["--device", "abacus"], "--device: invalid choice", marks=needs_gloo),
        pytest.param("train_fsdp", ["--folder", "README.md"], "--folder: cannot write to .*: File", marks=needs_gloo),
        pytest.param("overfitting", ["--epochs", "0"], "--epochs: must be 1 or more", marks=needs_torchvision),
        pytest.param("train_cifar10", ["--lr", "inf"], "--lr: must be a finite", marks=needs_torchvision),
        pytest.param(
            "train_cifar10", ["--fake-data", "--batch-size", "50001"], "--batch-size: there", marks=needs_torchvision
        ),
    ],
)
def test_bad_arguments_of_the_other_examples_are_named(module, arguments, named, monkeypatch, capsys):
    example = importlib.import_module(module)
    monkeypatch.setenv("WORLD_SIZE", "2")  # of which only train_fsdp takes notice
    monkeypatch.setattr(sys, "argv", [f"{module}.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        example.main()
    assert stopped.value.code == 2
    assert re.search(f"argument {named}", capsys.readouterr().err)


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------


def cifar10(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run the example in this process."""
    monkeypatch.setattr(sys, "argv", ["train_cifar10.py", "--device", "cpu", *arguments])
    importlib.import_module("train_cifar10").main()


@needs_torchvision
def test_cifar10_runs_on_fake_data_as_torch_does(monkeypatch, capsys):
    cifar10(monkeypatch, "--fake-data", "--steps", "2", "--batch-size", "4", "--epochs", "1", "--against-torch")
    out = capsys.readouterr().out
    largest = re.search(r"largest difference of the losses: (\S+)", out)
    assert largest is not None, out
    assert float(largest[1]) < 1e-5


@needs_torchvision
def test_cifar10_says_what_to_do_where_there_are_no_data(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    for folder, arguments in ((tmp_path, []), (tmp_path / "gone", []), (tmp_path / "file", ["--download"])):
        with pytest.raises(SystemExit) as stopped:
            cifar10(monkeypatch, "--data", str(folder), *arguments)
        assert stopped.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert f"argument --data: no CIFAR-10 in {str(folder)!r}" in last
        assert all(way in last for way in ("--download", "--data", "--fake-data"))


def test_a_torchvision_that_imports_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    assert "library" not in runpy.run_path(str(EXAMPLES / "torchvision_on_cpu.py"))


def test_another_failure_of_torchvision_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('compiled with another CUDA')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(RuntimeError, match="another CUDA"):
        runpy.run_path(str(EXAMPLES / "torchvision_on_cpu.py"))


# --- Sharded over ranks -----------------------------------------------------------------------------------------------

KILLED = """
import os, psutil, torch.distributed.checkpoint as dcp, train_fsdp

finish = dcp.FileSystemWriter.finish

def finish_or_be_killed(writer, **arguments):
    if writer.path.name == "step-00000010":
        torchrun = psutil.Process().parent()
        others = [child for child in torchrun.children() if child.pid != os.getpid()]
        for process in (torchrun, *others, psutil.Process()):
            process.kill()
    finish(writer, **arguments)

dcp.FileSystemWriter.finish = finish_or_be_killed
train_fsdp.main()
"""
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
TINY = ("--steps", "12", "--save-every", "5", "--batch-size", "4", "--device", "cpu", "--folder")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of 2 ranks that was killed while it saved step 10, after all but the last file."""
    pytest.importorskip("psutil")
    folder = tmp_path_factory.mktemp("killed")
    script = folder / "killed.py"
    script.write_text(KILLED)
    process = python(*TORCHRUN, str(script), *TINY, str(folder))
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert sorted(folder.glob("step-*/*.distcp")), "it has saved nothing"
    return folder


def numbers(folder: Path) -> dict[tuple[int | None, str], float]:
    """Return losses and norms of a run by step and name; each must be there once."""
    log = read_csv(folder / "losses.csv")
    found = {(scalar.step, scalar.tag): scalar.value for scalar in log}
    assert len(found) == len(log)
    return found


def fsdp(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    """Run the example in this process, as the only rank."""
    for name, value in LOOPBACK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["train_fsdp.py", *TINY, str(folder), *arguments])
    try:
        importlib.import_module("train_fsdp").main()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@needs_gloo
def test_a_sharded_run_that_was_killed_goes_on_to_the_last_bit(killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    process = python(*TORCHRUN, "examples/train_fsdp.py", *TINY, str(folder))
    assert process.returncode == 0, process.stderr
    before, after = read_csv(killed / "losses.csv"), read_csv(folder / "losses.csv")
    assert len(before) == 20  # two rows a step, and those up to the checkpoint stay, with the time of their writing
    assert after[:10] == before[:10]
    assert not {scalar.wall_time for scalar in after[10:]} & {scalar.wall_time for scalar in before}
    assert sorted(numbers(folder)) == [(step, tag) for step in range(1, 13) for tag in ("grad_norm", "loss")]
    assert numbers(killed).items() <= numbers(folder).items()
    assert [path.name for path in folder.glob("step-*")] == ["step-00000012"]


@needs_gloo
def test_one_rank_goes_on_with_what_two_have_saved(killed, tmp_path, monkeypatch, capsys):
    """The sums over a batch come in another order, and round otherwise.

    AdamW divides an element's gradient by its size, so that a rounding of 1e-6 of the gradient (some ten of 2^-24)
    changes its step by 1e-6 of the rate, 0.01, and the loss by that times the gradient's 1-norm. This is at most its
    2-norm, 1, times the root of the 120,000 elements: 3.5e-6 a step, and 2e-5 over the steps from 5 to 10.
    """
    folder = shutil.copytree(killed, tmp_path / "run")
    fsdp(monkeypatch, folder)
    two, one = numbers(killed), numbers(folder)
    for step in range(1, 11):
        assert (one[step, "loss"] == two[step, "loss"]) or step > 5
        assert one[step, "loss"] == pytest.approx(two[step, "loss"], rel=0, abs=5e-5)
    # Again, and nothing is left to be done.
    fsdp(monkeypatch, folder)
    assert numbers(folder) == one
    with pytest.raises(SystemExit):
        fsdp(monkeypatch, folder, "--seed", "1", "--lr", "0.1")
    assert "argument --folder: " in capsys.readouterr().err
    assert numbers(folder) == one
