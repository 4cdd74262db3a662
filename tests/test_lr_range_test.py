"""The learning-rate range test: what it suggests, that it restores everything, and its errors."""

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from catalogue import LAYERWISE, PLAIN_CASES
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

import torch_gd
from torch_gd import LRRangeTest, lr_range_test


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
            "clip": [getattr(optimizer, name, None) for name in ("last_norm", "last_coefficient", "skipped_steps")],
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
    **{str(case): lambda m, case=case: case.ours(m.parameters(), lr=0.01) for case in [*PLAIN_CASES, *LAYERWISE]},
    "clipped": lambda m: torch_gd.SGD(m.parameters(), lr=0.01, clip=0.1),
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


@pytest.mark.parametrize("lrs", [(0.1, 0.3), (0.0, 0.0)])
def test_groups_keep_the_ratio_that_a_warm_up_climbs_to(lrs: tuple[float, float]) -> None:
    model = Net()
    groups = [{"params": list(m.parameters()), "lr": lr} for m, lr in zip((model.first, model.last), lrs)]
    optimizer = torch.optim.SGD(groups)
    torch_gd.lr_scheduler.LinearSchedule(optimizer, 100, warmup=10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    seen = []
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[1]["lr"] / o.param_groups[0]["lr"]))
    lr_range_test(model, optimizer, nn.functional.mse_loss, loader(), steps=10, progress=False)
    assert seen
    assert seen == pytest.approx([3.0 if lrs[0] else 1.0] * len(seen), rel=1e-12)


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


def quadratic(shift: float = 0.0, **options: Any) -> LRRangeTest:
    """Sweep ½ x² + shift from x = 1, where a step at rate lr multiplies ½ x² by (1 − lr)²."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters())
    batches = [(torch.ones(1), torch.zeros(1))]
    return lr_range_test(
        model, optimizer, lambda out, target: 0.5 * (out - target).square() + shift, batches, progress=False, **options
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
    assert 0.1 < result.valley < 1.0  # 1 solves it at once


@pytest.mark.parametrize("shift", [0.5, -5.0, -0.5 + 2**-12])  # in the last row the loss crosses zero
def test_losses_below_zero_end_it_no_sooner(shift: float) -> None:
    options: dict[str, Any] = {"start_lr": 2e-3, "end_lr": 200.0, "steps": 26, "smoothing": 0.0}
    result = quadratic(shift, **options)
    assert result.diverged
    assert 2 < result.lrs[-1] < 100  # the loss grows from a rate of 2 on
    assert 0.1 < result.valley < 1.0
    assert len(quadratic(shift, divergence=math.inf, **options).lrs) == 26


def test_smoothing_is_a_corrected_average() -> None:
    result = quadratic(start_lr=1e-4, end_lr=0.1, steps=30, smoothing=0.8)
    for i, smooth in enumerate(result.smoothed):
        weights = [0.8 ** (i - j) for j in range(i + 1)]
        expected = sum(w * loss for w, loss in zip(weights, result.losses)) / sum(weights)
        assert smooth == pytest.approx(expected, rel=1e-12)


def curve(losses: list[float], diverged: bool = True) -> LRRangeTest:
    """Return the result of ten steps in a decade."""
    return LRRangeTest(tuple(10 ** (i / 10 - 5) for i in range(len(losses))), tuple(losses), tuple(losses), diverged)


def test_suggestions_of_a_known_curve() -> None:
    """The curve is level for two decades, falls for one along a straight line, and then rises."""
    result = curve([1.0] * 21 + [1 - i / 10 for i in range(1, 11)] + [1 + 10.0 * i for i in range(10)])
    # Of 41 points a mean takes two on each side, so it is lowest at index 28, the last that the rise does not reach.
    # The level part ends at index 20.
    assert result.tenth_of_minimum == pytest.approx(10 ** (2.8 - 5) / 10)
    assert result.suggestion == result.valley == pytest.approx(10 ** ((20 + 2 * 28) / 30 - 5))
    assert result.lrs[20] <= result.steepest <= result.lrs[28]
    assert set(result.suggestions) == {"steepest", "tenth_of_minimum", "valley"}
    assert result.doubt == ""


def noisy(level: float, count: int = 60) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    return (level + 0.1 * torch.randn(count, generator=generator)).tolist()


DOUBTS: list[tuple[str, LRRangeTest, bool, str]] = [
    ("noise", curve(noisy(1.0)), False, "no more than its noise may: take more steps"),
    ("never off the level", curve(noisy(1.0), diverged=False), False, "noise may: raise end_lr=7.94, where"),
    ("constant", curve([1.0] * 30, diverged=False), False, "no suggestion"),
    ("only rises", curve([1.0 + i for i in range(20)]), False, "no suggestion"),
    ("at once", curve([1.0, 0.5, 0.1, 9.0]), False, "no suggestion"),
    ("none", LRRangeTest((), (), (), True), False, "no losses"),
    ("from the start on", curve([2 - i / 40 for i in range(40)] + [9.0] * 20), True, "lower start_lr=1e-05"),
    ("to the end", curve([2.0] * 30 + [2 - i / 40 for i in range(30)], diverged=False), True, "raise end_lr=7.94"),
    ("a bottom", curve([2.0] * 30 + [2 - i / 10 for i in range(15)] + noisy(0.5, 15), diverged=False), True, ""),
]


@pytest.mark.parametrize(("result", "suggests", "doubt"), [pytest.param(*row[1:], id=row[0]) for row in DOUBTS])
def test_doubts(result: LRRangeTest, suggests: bool, doubt: str) -> None:
    assert (result.suggestion is not None) == suggests
    assert doubt in result.doubt if doubt else result.doubt == ""


class Batches:
    """Batches of 8 in an order that the seed decides, anew in each epoch."""

    def __init__(self, x: Tensor, y: Tensor, seed: int) -> None:
        self.x, self.y, self.generator = x, y, torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in torch.randperm(len(self.y), generator=self.generator).split(8):
            yield self.x[i], self.y[i]


def hidden(inputs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 1))


def diabetes() -> tuple[Tensor, Tensor]:
    data = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_diabetes()
    x, y = torch.tensor(data.data).float(), torch.tensor(data.target).float()[:, None]
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


@pytest.mark.parametrize("seed", range(3))
def test_noisy_losses_of_small_batches_mislead_nobody(seed: int, torch_path: None) -> None:
    """300 steps at the suggestion end within 20 % of the best loss of a sweep, whose best is between 1e-3 and 1e-2.

    So they did in 12 of 12 seeds; the steepest descent of the moving average was among the first 10 rates in 8 of them.
    """
    x, y = diabetes()

    def loss_after_training(lr: float) -> float:
        model = hidden(10, seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
        for a, b in itertools.islice(itertools.chain.from_iterable(itertools.repeat(Batches(x, y, seed))), 300):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(a), b).backward()
            optimizer.step()
        return nn.functional.mse_loss(model(x), y).item()

    model = hidden(10, seed)
    optimizer = torch_gd.AdamW(model.parameters())
    found = lr_range_test(model, optimizer, nn.functional.mse_loss, Batches(x, y, seed), progress=False)
    assert found.suggestion is not None
    assert loss_after_training(found.suggestion) <= 1.2 * min(map(loss_after_training, (1e-3, 3e-3, 1e-2)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("end_lr", [10.0, 1e-5], ids=["random targets", "rates without effect"])
def test_nothing_is_suggested_where_there_is_nothing_to_find(end_lr: float, seed: int, torch_path: None) -> None:
    x = torch.randn(2048, 10, generator=torch.Generator().manual_seed(seed))
    y = torch.randn(2048, 1, generator=torch.Generator().manual_seed(seed + 100)) if end_lr > 1 else x.sum(1, True)
    model = hidden(10, seed)
    optimizer = torch_gd.AdamW(model.parameters())
    with pytest.warns(
        UserWarning, match="^lr_range_test: there is no suggestion, because the loss falls by no more"
    ) as w:
        found = lr_range_test(
            model, optimizer, nn.functional.mse_loss, Batches(x, y, seed), end_lr=end_lr, progress=False
        )
    assert found.suggestion is None
    assert w[0].filename == __file__  # the caller's line


@pytest.mark.parametrize("name", ["momentum", "nag", "adagrad", "rmsprop", "adam", "adamw"])
def test_the_digits_are_learnt_at_the_suggestion(name: str, torch_path: None) -> None:
    """This uses torch's path, because interpreted kernels would take minutes."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from torch_gd.plot import digits

    data, model = digits.load(), digits.network()
    optimizer = torch_gd.create_optimizer(name, model, 1e-3)
    found = lr_range_test(model, optimizer, nn.functional.cross_entropy, data.loader(), progress=False)
    assert found.suggestion is not None
    # The best rates reach 97 to 98 %; 449 test images, so one run's accuracy has a standard error of 0.7 points.
    optimizer = torch_gd.create_optimizer(name, model, found.suggestion)
    assert digits.train(data, model, optimizer, epochs=8).accuracy > 95


# --- Repr -------------------------------------------------------------------------------------------------------------


REPRS = [
    (curve([1.0] * 40, diverged=False), "LRRangeTest(40 points, lr 1e-05 to 0.0794, no suggestion)"),
    (
        curve([1.0] * 10 + [1 - i / 10 for i in range(10)] + [9.0]),
        "LRRangeTest(21 points, lr 1e-05 to 0.001, suggestion 0.000341, diverged)",
    ),
    (LRRangeTest((), (), (), False), "LRRangeTest(no points)"),
]


@pytest.mark.parametrize(("result", "text"), REPRS, ids=["none", "diverged", "empty"])
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
    ("a picture in no folder", {"plot": "no/such/folder/lr.png"}, ValueError, "plot is .*name a file in a folder"),
    ("a folder for a picture", {"plot": "."}, ValueError, "plot is .*name a file in a folder"),
    ("endless rates", {"end_lr": math.inf}, ValueError, "start_lr and end_lr"),
    ("too few steps", {"steps": 3}, ValueError, "steps: 3"),
    ("no past", {"smoothing": 1.0}, ValueError, "smoothing: 1.0"),
    ("no divergence", {"divergence": 1.0}, ValueError, "divergence: 1.0"),
    ("a loader for once", {"loader": batches_once()}, TypeError, "loader is an iterator"),
    ("no batches", {"loader": []}, ValueError, "no batches"),
    ("no pairs", {"loader": [torch.zeros(2, 4)]}, ValueError, "a batch is Tensor"),
    ("a loss a sample", {"loss_fn": lambda a, b: (a - b).square()}, ValueError, r"loss has shape \(8, 1\)"),
    ("a nan loss", {"loss_fn": lambda a, b: (a - b).sum() * math.nan}, RuntimeError, "loss is nan"),
    ("a text for a rate", {"start_lr": "1e-6"}, TypeError, "start_lr: '1e-6'; it must be a number"),
    ("no rate", {"end_lr": None}, TypeError, "end_lr: None; it must be a number"),
    ("NaN for a rate", {"end_lr": math.nan}, ValueError, "start_lr and end_lr: 1e-06 and nan"),
    ("a share of steps", {"steps": 50.5}, ValueError, "steps: 50.5"),
    ("no number of steps", {"steps": True}, TypeError, "steps: True; it must be a whole number, 10 or more"),
    ("NaN for a weight", {"smoothing": math.nan}, ValueError, "smoothing: nan"),
    ("a text for a factor", {"divergence": "4"}, TypeError, "divergence: '4'; it must be a number"),
    ("a text for a bar", {"progress": "no"}, TypeError, "progress is 'no', not True, False or None"),
    ("a number for a file", {"plot": 1}, TypeError, "plot is 1, not the name of a file"),
    ("a loss class", {"loss_fn": nn.MSELoss}, TypeError, r"loss_fn is the class MSELoss; pass an instance, MSELoss\("),
    ("a model class", {"model": nn.Linear}, TypeError, "model is the class Linear"),
    ("an optimizer class", {"optimizer": torch_gd.SGD}, TypeError, "optimizer is the class SGD"),
    ("a loader class", {"loader": DataLoader}, TypeError, "loader is the class DataLoader"),
    ("no tensor", {"loss_fn": lambda a, b: 0.5}, TypeError, "loss_fn: its loss is 0.5, not a tensor"),
    ("no gradient", {"loss_fn": lambda a, b: a.detach().sum()}, ValueError, "loss_fn: its loss has no gradient"),
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


@pytest.mark.parametrize(
    ("name", "right"), [("num_iter", "steps"), ("min_lr", "start_lr"), ("max_lr", "end_lr"), ("criterion", "loss_fn")]
)
def test_the_names_of_other_libraries_are_answered(name: str, right: str) -> None:
    model = Net()
    with pytest.raises(TypeError, match=f"^lr_range_test takes no {name}: pass {right}=…"):
        lr_range_test(model, torch.optim.SGD(model.parameters()), **{name: 1})  # type: ignore[call-arg]


def test_optimizers_that_cannot_be_swept_are_refused() -> None:
    model = Net()
    with pytest.raises(TypeError, match="optimizer is LBFGS, whose steps need a closure"):
        lr_range_test(model, torch.optim.LBFGS(model.parameters()), nn.functional.mse_loss, loader())
    groups = [{"params": model.first.parameters(), "lr": 0.0}, {"params": model.last.parameters()}]
    with pytest.raises(ValueError, match=r"Invalid optimizer: its groups have the rates \[0.0, 0.1\]"):
        lr_range_test(model, torch.optim.SGD(groups, lr=0.1), nn.functional.mse_loss, loader())


def test_swapped_arguments_are_named() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(
        TypeError, match=r"^optimizer is function, .*lr_range_test\(model, optimizer, loss_fn, loader\)"
    ):
        lr_range_test(model, nn.functional.mse_loss, optimizer, loader())  # type: ignore[arg-type]
