"""The learning-rate range test: what it suggests, that it restores everything, and its errors."""

import copy
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

import torch_gd
from torch_gd import LRRangeTest, lr_range_test

SIX = ("SGD", "NAG", "Adagrad", "RMSprop", "Adam", "AdamW")


class Net(nn.Module):
    """A network with everything that a step may change.

    It has batch statistics, the noise of dropout, a buffer that `forward` binds anew, and one that it makes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("grid", torch.arange(2.0)[:, None].expand(2, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.register_buffer("last_input", x.detach())
        random.random(), np.random.random()
        return self.last(self.drop(self.norm(self.first(x)).relu()))


def pairs() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator)
    return list(zip(x, x.sum(1, keepdim=True)))


def loader(generator: torch.Generator | None = None) -> "DataLoader[Any]":
    return DataLoader(pairs(), batch_size=8, shuffle=True, generator=generator)  # type: ignore[arg-type]


def train(model: nn.Module, optimizer: Optimizer, batches: "DataLoader[Any]", epochs: int = 2) -> list[float]:
    losses = []
    for x, y in (batch for _ in range(epochs) for batch in batches):
        loss = nn.functional.mse_loss(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def trace(model: nn.Module, optimizer: Optimizer, generator: torch.Generator) -> dict[str, Any]:
    """Return a copy of everything that must be afterwards as it was before."""
    name, keys, *rest = np.random.get_state()
    return copy.deepcopy(
        {
            "parameters and buffers": {**dict(model.named_parameters()), **dict(model.named_buffers())},
            "gradients": {name: p.grad for name, p in model.named_parameters()},
            "modes": [module.training for module in model.modules()],
            "optimizer": optimizer.state_dict(),
            "groups": [
                {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
            ],
            "how many states": [len(optimizer.state), *(len(state) for state in optimizer.state.values())],
            "attributes": sorted(set(vars(optimizer)) - {"_plan"}),
            "torch": torch.get_rng_state(),
            "gpu": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "loader": generator.get_state(),
            "python": random.getstate(),
            "numpy": (name, keys.tolist(), *rest),
        }
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    **{name: lambda m, name=name: getattr(torch_gd, name)(m.parameters(), lr=0.01) for name in SIX},
    "SGD with momentum": lambda m: torch_gd.SGD(m.parameters(), lr=0.01, momentum=0.9),
    "tensor lr": lambda m: torch_gd.AdamW(m.parameters(), lr=torch.tensor(0.01)),
    "torch's": lambda m: torch.optim.Adam(m.parameters(), lr=0.01, amsgrad=True),
    "one layer": lambda m: torch_gd.SGD(m.last.parameters(), lr=0.01),
    "groups": lambda m: torch_gd.AdamW(
        [
            {"params": [p for name, p in m.named_parameters() if "first" in name], "lr": 0.02},
            {"params": [p for name, p in m.named_parameters() if "first" not in name]},
        ],
        lr=0.01,
    ),
}


@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_leaves_no_trace(name: str, trained: bool, torch_path: None) -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = OPTIMIZERS[name](model)
    generator = torch.Generator().manual_seed(3)
    batches = loader(generator)
    if trained:
        train(model, optimizer, batches)
    else:
        optimizer.state[model.last.bias]  # reading it makes an empty state
    model.norm.eval()
    objects = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    objects += [group["lr"] for group in optimizer.param_groups]
    objects += [value for state in optimizer.state.values() for value in state.values()]
    before = trace(model, optimizer, generator)

    result = lr_range_test(model, optimizer, nn.functional.mse_loss, batches, steps=40, progress=False)

    assert len(result.lrs) > 20
    after = trace(model, optimizer, generator)
    assert [what for what in before if not same(before[what], after[what])] == []
    now = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    now += [group["lr"] for group in optimizer.param_groups]
    now += [value for state in optimizer.state.values() for value in state.values()]
    assert all(a is b for a, b in zip(objects, now))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
def test_training_goes_on_as_if_nothing_had_been(name: str, trained: bool, torch_path: None) -> None:
    def run(tested: bool) -> tuple[list[float], list[Tensor]]:
        torch.manual_seed(0)
        model = Net()
        optimizer = OPTIMIZERS[name](model)
        batches = loader(torch.Generator().manual_seed(3))
        if trained:
            train(model, optimizer, batches)
        if tested:
            lr_range_test(model, optimizer, nn.functional.mse_loss, batches, steps=20, progress=False)
        return train(model, optimizer, batches, epochs=4), list(model.parameters())

    (losses, parameters), (expected, expected_parameters) = run(True), run(False)
    assert losses == expected
    assert same(parameters, expected_parameters)


def test_our_kernels_go_on_as_if_nothing_had_been(triton_device: torch.device) -> None:
    """The kernels write to addresses that a plan keeps. They run on the GPU, or interpreted."""

    def run(tested: bool) -> list[float]:
        torch.manual_seed(0)
        model = nn.Linear(4, 1).to(triton_device)
        optimizer = torch_gd.AdamW(model.parameters(), lr=0.01)
        batches = [(x[None].to(triton_device), y[None].to(triton_device)) for x, y in pairs()[:4]]
        train(model, optimizer, batches, epochs=1)  # type: ignore[arg-type]  # a list does for a loader
        if tested:
            lr_range_test(model, optimizer, nn.functional.mse_loss, batches, steps=10, progress=False)
        return train(model, optimizer, batches, epochs=2)  # type: ignore[arg-type]

    assert run(True) == run(False)


def test_an_error_leaves_no_trace_either() -> None:
    torch.manual_seed(0)
    model, calls = Net(), []
    optimizer = torch.optim.Adam(model.parameters())
    generator = torch.Generator()

    def fails(output: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return nn.functional.mse_loss(output, target)

    before = trace(model, optimizer, generator)
    with pytest.raises(KeyboardInterrupt):
        lr_range_test(model, optimizer, fails, loader(generator), progress=False)
    assert same(before, trace(model, optimizer, generator))


def test_a_scheduler_does_not_notice() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch_gd.lr_scheduler.LinearSchedule(optimizer, 10)
    lr_range_test(model, optimizer, nn.functional.mse_loss, loader(), progress=False)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.09)


# --- The curve --------------------------------------------------------------------------------------------------------


def test_rates_rise_exponentially_and_groups_keep_their_ratio() -> None:
    seen = []
    model = Net()
    params = list(model.parameters())
    optimizer = torch.optim.SGD([{"params": params[:2]}, {"params": params[2:], "lr": 0.3}], lr=0.1)
    optimizer.register_step_pre_hook(lambda o, *_: seen.append([group["lr"] for group in o.param_groups]))
    result = lr_range_test(
        model,
        optimizer,
        nn.functional.mse_loss,
        loader(),
        start_lr=1e-8,
        end_lr=1e-4,
        steps=41,
        progress=False,
    )
    assert not result.diverged
    # Ten steps in a decade; exp and log round a few times, each by 1e-16.
    assert result.lrs == pytest.approx([1e-8 * 10 ** (i / 10) for i in range(41)], rel=1e-12)
    assert [first for first, _ in seen] == list(result.lrs)
    assert [second for _, second in seen] == pytest.approx([3 * lr for lr in result.lrs], rel=1e-12)


def quadratic(**options: Any) -> LRRangeTest:
    """Sweep ½ x² from x = 1, where a step at rate lr multiplies the loss by (1 − lr)²."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters())
    batches = [(torch.ones(1), torch.zeros(1))]
    return lr_range_test(
        model, optimizer, lambda out, target: 0.5 * (out - target).square(), batches, progress=False, **options
    )


def test_curve_of_a_quadratic() -> None:
    result = quadratic(
        start_lr=2e-3, end_lr=200.0, steps=26, smoothing=0.0
    )  # no rate is 1, which would solve it exactly
    loss, expected = 0.5, []
    for lr in result.lrs:
        expected.append(loss)
        loss *= (1 - lr) ** 2
    # Each step rounds by 6e-8 of the larger float32 term, which is five times the difference at |1 - lr| = 0.2.
    assert result.losses == pytest.approx(expected, rel=26 * 5 * 6e-8)
    assert result.smoothed == result.losses
    assert result.diverged
    assert 1 < result.lrs[-1] < 10  # the loss grows from a rate of 2 on
    assert result.tenth_of_minimum == pytest.approx(result.lrs[result.losses.index(min(result.losses))] / 10)


def test_smoothing_is_a_corrected_average() -> None:
    result = quadratic(start_lr=1e-4, end_lr=0.1, steps=30, smoothing=0.8)
    for i, smooth in enumerate(result.smoothed):
        weights = [0.8 ** (i - j) for j in range(i + 1)]
        expected = sum(w * loss for w, loss in zip(weights, result.losses)) / sum(weights)
        assert smooth == pytest.approx(expected, rel=1e-12)


def test_suggestions_of_a_known_curve() -> None:
    """The curve is flat for two decades, falls for one, steepest in the middle, and then rises."""
    lrs = tuple(10 ** (i / 10 - 5) for i in range(41))
    fall = [1.0] * 21 + [0.9, 0.8, 0.7, 0.6, 0.35, 0.3, 0.2, 0.1, 0.08, 0.06] + [0.5 + i for i in range(10)]
    result = LRRangeTest(lrs, tuple(fall), tuple(fall), True)
    assert result.suggestion == result.steepest == lrs[24]
    assert result.tenth_of_minimum == pytest.approx(lrs[30] / 10)
    assert result.valley == pytest.approx(math.sqrt(lrs[21] * lrs[30]))
    assert set(result.suggestions) == {"steepest", "tenth_of_minimum", "valley"}


def test_a_loss_that_only_rises_suggests_the_lowest() -> None:
    result = LRRangeTest((0.1, 0.2, 0.4), (1.0, 2.0, 3.0), (1.0, 2.0, 3.0), True)
    assert result.steepest == result.valley == 0.1


@pytest.mark.parametrize("name", SIX)
def test_suggestion_trains_as_well_as_the_best_of_a_sweep(name: str, torch_path: None) -> None:
    """This uses torch's path, because interpreted kernels would take minutes."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from torch_gd.plot import digits
    from torch_gd.plot.lr_sweep import new_optimizer

    data = digits.load()
    seeds = range(3)  # 449 test images: one run's accuracy has a standard error of 0.7 points

    def accuracy(lrs: list[float]) -> float:
        """Return the accuracy in percent, as the mean over the seeds."""
        models = [digits.network(seed) for seed in seeds]
        runs = [digits.train(data, m, new_optimizer(name, m, lr), epochs=8) for m, lr in zip(models, lrs)]
        return sum(run.accuracy for run in runs) / len(runs)

    suggested = []
    for seed in seeds:
        model = digits.network(seed)
        optimizer = new_optimizer(name, model, 1e-3)
        result = lr_range_test(model, optimizer, nn.functional.cross_entropy, data.loader(seed=seed), progress=False)
        suggested.append(result.suggestion)
    sweep = {lr: accuracy([lr] * len(seeds)) for lr in (10 ** (exponent / 2) for exponent in range(-8, 1))}
    assert max(sweep.values()) > 95
    assert accuracy(suggested) >= max(sweep.values()) - 1.0, (suggested, sweep)


# --- Repr -------------------------------------------------------------------------------------------------------------


REPRS = [
    (
        LRRangeTest(*[tuple(10 ** (i / 100 - 6) for i in range(500))] * 3, False),
        "LRRangeTest(500 points, lr 1e-06 to 0.0977, suggestion 1e-06)",
    ),
    (
        LRRangeTest((0.1, 0.2, 0.4), (1.0, 0.5, 3.0), (1.0, 0.5, 3.0), True),
        "LRRangeTest(3 points, lr 0.1 to 0.4, suggestion 0.1, diverged)",
    ),
    (LRRangeTest((), (), (), False), "LRRangeTest(no points)"),
]


@pytest.mark.parametrize(("result", "text"), REPRS, ids=["long", "diverged", "empty"])
def test_repr(result: LRRangeTest, text: str) -> None:
    assert repr(result) == text


# --- Picture and progress ---------------------------------------------------------------------------------------------


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    quadratic(plot=tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    model = Net()
    optimizer = torch.optim.SGD(model.parameters())
    lr_range_test(model, optimizer, nn.functional.mse_loss, loader())
    assert "range test" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    lr_range_test(model, optimizer, nn.functional.mse_loss, loader())
    with pytest.raises(ModuleNotFoundError, match="pip install tqdm"):
        lr_range_test(model, optimizer, nn.functional.mse_loss, loader(), progress=True)


# --- Bad input --------------------------------------------------------------------------------------------------------


def batches_once() -> Iterator[Any]:
    yield torch.zeros(2, 4), torch.zeros(2, 1)


REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("no start", {"start_lr": 0.0}, ValueError, "start_lr and end_lr"),
    ("rates that fall", {"start_lr": 1.0, "end_lr": 0.1}, ValueError, "start_lr and end_lr"),
    ("endless rates", {"end_lr": math.inf}, ValueError, "start_lr and end_lr"),
    ("too few steps", {"steps": 3}, ValueError, "steps: 3"),
    ("no past", {"smoothing": 1.0}, ValueError, "smoothing: 1.0"),
    ("no divergence", {"divergence": 1.0}, ValueError, "divergence: 1.0"),
    ("a loader for once", {"loader": batches_once()}, TypeError, "loader is an iterator"),
    ("no batches", {"loader": []}, ValueError, "no batches"),
    ("no pairs", {"loader": [torch.zeros(2, 4)]}, ValueError, "a batch is Tensor"),
    ("a loss a sample", {"loss_fn": lambda a, b: (a - b).square()}, ValueError, r"loss has shape \(8, 1\)"),
    ("a nan loss", {"loss_fn": lambda a, b: (a - b).sum() * math.nan}, RuntimeError, "loss is nan"),
    ("a function for an optimizer", {"optimizer": nn.functional.mse_loss}, TypeError, "optimizer is function"),
    ("an optimizer for a model", {"model": torch.optim.SGD(nn.Linear(1, 1).parameters())}, TypeError, "model is SGD"),
    ("a loader for a loss", {"loss_fn": []}, TypeError, "loss_fn is list, not a function"),
    ("a function for a loader", {"loader": nn.functional.mse_loss}, TypeError, "loader is function"),
    ("other parameters", {"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters())}, ValueError, "none of its"),
]


@pytest.mark.parametrize(("change", "error", "message"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    model = Net()
    arguments = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters()),
        "loss_fn": nn.functional.mse_loss,
        "loader": loader(),
        "progress": False,
    }
    with pytest.raises(error, match=message):
        lr_range_test(**{**arguments, **change})


def test_swapped_arguments_are_named() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(
        TypeError, match=r"^optimizer is function, .*lr_range_test\(model, optimizer, loss_fn, loader\)"
    ):
        lr_range_test(model, nn.functional.mse_loss, optimizer, loader())  # type: ignore[arg-type]
