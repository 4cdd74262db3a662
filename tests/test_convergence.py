"""The monitor: what must and must not lead to each verdict, and real runs that are provoked into each."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from catalogue import CASES
from torch import Tensor, nn

import torch_gd
from torch_gd.convergence import Monitor, StepRecorder, StepStatistics, curves, gradients
from torch_gd.convergence.series import CHUNK, Series

OURS = sorted({case.name for case in CASES})
THEIRS = ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "NAdam", "RAdam", "Adadelta", "Adamax", "ASGD", "Rprop"]


@pytest.fixture(autouse=True)
def without_kernels(torch_path: None) -> None:
    """Leave every tensor to torch: interpreted kernels would be slow here."""


# --- Synthetic curves -------------------------------------------------------------------------------------------------

Shape = Callable[[Tensor], Tensor]


def noise(scale: float) -> Shape:
    return lambda t: scale * torch.randn(len(t), generator=torch.Generator().manual_seed(0), dtype=t.dtype)


def wave(amplitude: float, period: float) -> Shape:
    return lambda t: amplitude * torch.sin(2 * math.pi * torch.arange(len(t), dtype=t.dtype) / period + math.pi / 2)


def exponential(t: Tensor) -> Tensor:
    return (-5 * t).exp()


def straight(t: Tensor) -> Tensor:
    return 2.3 - 0.05 * t


def flat(t: Tensor) -> Tensor:
    return 0.1 + 2.2 * (-50 * t).exp()


def back_up(t: Tensor) -> Tensor:
    return 0.1 + 2.2 * (-20 * t).exp() + 1.5 * (t - 0.5).clamp(min=0)


CURVES: list[tuple[str, list[Shape], int, str | None]] = [
    ("diverging", [lambda t: (3 * t).exp()], 40, "diverging"),
    ("diverging", [lambda t: (3 * t).exp(), noise(0.1)], 400, "diverging"),
    ("growing oscillation", [lambda t: 1 + (8 * t).exp() * (1 + wave(0.5, 2)(t))], 100, "diverging"),
    ("falls, then rises", [back_up, noise(0.02)], 400, "diverging"),
    ("ends in NaN", [lambda t: torch.where(t < 1, t, math.nan)], 5, "diverging"),
    ("ends in infinity", [lambda t: torch.where(t < 1, t, math.inf)], 200, "diverging"),
    ("NaN long ago", [lambda t: torch.where(t == 0, math.nan, exponential(t))], 200, None),
    ("oscillating", [exponential, wave(0.5, 2)], 100, "oscillating"),
    ("oscillating", [exponential, wave(0.5, 7.3), noise(0.05)], 100, "oscillating"),
    ("oscillating", [lambda t: 1 + 0 * t, wave(0.2, 12)], 200, "oscillating"),
    ("a ripple on a steep fall", [exponential, wave(0.02, 2)], 100, None),
    ("a ripple of rounding", [flat, wave(1e-7, 2)], 400, "plateau"),
    ("mini-batch noise", [exponential, noise(0.02)], 200, None),
    ("too few for a period, and to be sure", [lambda t: 1 + 0 * t, wave(0.2, 2)], 50, None),
    ("crawling", [straight], 40, "crawling"),
    ("crawling", [straight, noise(0.02)], 400, "crawling"),
    ("straight and far", [lambda t: 2.3 - 2 * t, noise(0.02)], 400, None),
    ("fast, then slow", [lambda t: 2.3 - 0.05 * t + (-20 * t).exp(), noise(0.02)], 400, None),
    ("plateau", [flat], 100, "plateau"),
    ("plateau", [flat, noise(0.02)], 1000, "plateau"),
    ("falls by less than its noise", [lambda t: 7 - t, noise(1.5)], 48, None),
    ("falls on by orders of magnitude", [lambda t: (-12 * t).exp()], 100, None),
    ("falls on, far from zero", [lambda t: 100 + exponential(t)], 100, None),
    ("creeps up", [flat, lambda t: 0.1 * (t - 0.5).clamp(min=0)], 100, None),
    ("never moved", [lambda t: 2.3 + 0 * t], 40, "plateau"),
    ("never moved, with noise", [lambda t: 2.3 + 0 * t, noise(0.3)], 400, "plateau"),
    ("exponential", [exponential], 40, None),
    ("exponential", [exponential, noise(0.02)], 400, None),
    ("hyperbola", [lambda t: 1 / (1 + 20 * t), noise(0.01)], 400, None),
    ("below zero", [lambda t: exponential(t) - 5], 100, None),
    ("too short", [straight], 19, None),
    ("empty", [straight], 0, None),
]


@pytest.mark.parametrize(("label", "shapes", "n", "expected"), CURVES)
def test_curves(label: str, shapes: list[Shape], n: int, expected: str | None) -> None:
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    losses = sum((shape(t) for shape in shapes), torch.zeros_like(t)).tolist()
    verdict = curves.training(losses)
    assert (verdict.name if verdict else None) == expected


@pytest.mark.parametrize(
    ("moved", "name", "said"),
    [
        (1e-4, "crawling", "the weights have moved by 1.0e-04 of their size in all: raise the learning rate"),
        (0.5, "plateau", "from the beginning: it is stuck, or began at a minimum"),
        (math.inf, "plateau", "or the rate is too small; losses alone do not say which"),
    ],
)
def test_what_a_loss_that_never_fell_may_be(moved: float, name: str, said: str) -> None:
    verdict = curves.training([2.3] * 40, moved=moved)
    assert verdict is not None
    assert verdict.name == name
    assert said in verdict.message
    fell = curves.training((0.1 + 2.2 * (-50 * torch.linspace(0, 1, 100)).exp()).tolist(), moved=moved)
    assert fell is not None
    assert fell.name == "plateau"
    assert "in the last half of the run" in fell.message


@pytest.mark.parametrize("period", [2, 5, 12])
def test_the_period_is_told(period: float) -> None:
    verdict = curves.training((1 + wave(0.2, period)(torch.zeros(200, dtype=torch.float64))).tolist())
    assert verdict is not None
    # The frequencies of a window of 50 are 1 / 50 apart, so the nearest one is off by half of that at most: the period
    # is off by period² / 100.
    assert verdict.data["period"] == pytest.approx(period, abs=period**2 / 100)
    # The window has 4 to 25 periods. The parabola takes a part of one of them, 1 / 8 of the swing at most.
    assert verdict.data["swing"] == pytest.approx(0.4, rel=0.125)


def test_scale_and_unit_change_no_verdict() -> None:
    t = torch.linspace(0, 1, 400, dtype=torch.float64)
    for shapes in ([back_up], [exponential, wave(0.5, 4)], [straight], [flat], [exponential]):
        losses = sum((shape(t) for shape in shapes), torch.zeros_like(t))
        names = {getattr(curves.training((losses * scale).tolist()), "name", None) for scale in (1e-6, 1.0, 1e6)}
        assert len(names) == 1


RISES = [1.0, 0.8, 0.7, 0.74, 0.78, 0.8]
OVERFITTING = [
    ([1.0, 0.5, 0.3, 0.2, 0.1, 0.05], RISES, True),
    ([1.0, 0.5, 0.3, 0.31, 0.32, 0.33], RISES, False),  # both losses rise, which is no over-fitting
    ([1.0, 0.5, 0.3, 0.2, 0.1, 0.05], [1.0, 0.8, 0.7, 0.73, 0.73, 0.73], False),  # it rises by less than 5 %
    ([1.0, 0.5, 0.3, 0.2, 0.1, 0.05], [1.0, 0.8, 0.7, 0.9, 0.71, 0.9], False),  # not three in a row
    ([1.0, 0.5, 0.3, 0.2, 0.1, 0.05], [1.0, 0.8, 0.7, 0.6, 0.5, 0.4], False),
    ([0.5, 0.3, 0.2], [0.7, 0.8, 0.9], False),  # there are too few
    ([-1.0, -2.0, -3.0, -4.0, -5.0], [-1.0, -3.0, -2.8, -2.7, -2.6], True),  # log-likelihoods
]


@pytest.mark.parametrize(("train", "validation", "expected"), OVERFITTING)
def test_overfitting(train: list[float], validation: list[float], expected: bool) -> None:
    verdict = curves.overfitting(train, validation)
    assert (verdict is not None) == expected
    if verdict is not None:
        assert verdict.data["gap"] > verdict.data["gap_then"]


def test_training_losses_are_averaged_between_validations() -> None:
    monitor = Monitor()
    for validation, losses in zip(RISES, ([1.1, 0.9], [0.5], [0.35, 0.25], [0.2], [0.1], [0.0, 0.1])):
        for loss in losses:
            monitor.train_loss(loss)
        monitor.validation_loss(validation)
    (verdict,) = monitor.verdicts()
    assert verdict.name == "over-fitting"
    assert verdict.data["lowest"] == 0.7
    assert verdict.data["gap"] == pytest.approx(0.75)


# --- Synthetic gradients ----------------------------------------------------------------------------------------------


def step(grads: dict[str, float], weight: float = 1.0, update: float = 0.01, dead: dict[str, Any] | None = None) -> Any:
    names = [*grads, *(name for name in (dead or {}) if name not in grads)]
    return StepStatistics(
        1,
        grads,
        dict.fromkeys(names, weight),
        dict.fromkeys(names, update),
        {name: torch.tensor(rows) for name, rows in (dead or {}).items()},
    )


LAYERS = {"a.weight": 1.0, "a.bias": 1.0, "b.weight": 1.0}
GRADIENTS = [
    ("healthy", [step(LAYERS)] * 5, []),
    ("a thousandth", [step(LAYERS | {"b.weight": 1e-3})] * 5, []),
    ("vanishing", [step(LAYERS | {"b.weight": 1e-6})] * 5, ["vanishing gradients"]),
    ("a bias only: its layer is fine", [step(LAYERS | {"a.bias": 1e-9})] * 5, []),
    ("vanishing once", [step(LAYERS)] * 3 + [step(LAYERS | {"b.weight": 1e-6})] * 2, []),
    ("all are small, as near a minimum", [step(dict.fromkeys(LAYERS, 1e-12))] * 5, []),
    ("exploding", [step(LAYERS | {"a.weight": 1e3})] * 5, ["exploding gradients"]),
    ("ten times the weights", [step(LAYERS | {"a.weight": 10.0})] * 5, []),
    ("exploding once", [step(LAYERS)] * 4 + [step(LAYERS | {"a.weight": 1e3})], []),
    ("infinite", [step(LAYERS | {"a.weight": math.inf})], ["exploding gradients"]),
    ("NaN", [step(LAYERS | {"a.weight": math.nan})], ["exploding gradients"]),
    ("no gradient", [step(LAYERS | {"b.weight": 0.0})] * 3, ["dead parameters"]),
    (
        "small for want of units",
        [step(LAYERS | {"b.weight": 1e-6}, dead={"b.weight": [True, True, True, False]})] * 3,
        ["dead parameters"],
    ),
    (
        "small with a dead unit",
        [step(LAYERS | {"b.weight": 1e-6}, dead={"b.weight": [True] + [False] * 19})] * 3,
        ["vanishing gradients"],
    ),
    ("no gradient, but seen twice only", [step(LAYERS | {"a.bias": 0.0})] * 2, []),
    ("no gradient once", [step(LAYERS | {"a.bias": 0.0})] * 2 + [step(LAYERS)], []),
    ("a dead unit of four", [step(LAYERS, dead={"a.weight": [True, False, False, False]})] * 3, ["dead parameters"]),
    ("a dead unit of twenty", [step(LAYERS, dead={"a.weight": [True] + [False] * 19})] * 3, []),
    ("units that take turns", [step(LAYERS, dead={"a.weight": [i == j for j in range(3)]}) for i in range(3)], []),
    ("NaN weights", [step(LAYERS, weight=math.nan)], ["non-finite parameters"]),
    ("an update of NaN", [step(LAYERS, update=math.nan)], ["non-finite parameters"]),
    ("nothing recorded", [], []),
]


@pytest.mark.parametrize(("label", "records", "expected"), GRADIENTS)
def test_gradients(label: str, records: list[StepStatistics], expected: list[str]) -> None:
    sizes = dict.fromkeys(LAYERS, 1)
    verdicts = [
        gradients.not_finite(records),
        gradients.exploding(records, sizes),
        gradients.vanishing(records, sizes),
        gradients.dead(records, sizes),
    ]
    assert [verdict.name for verdict in verdicts if verdict is not None] == expected


def test_the_report_on_dead_parameters_says_since_when() -> None:
    alive, silent = step(LAYERS), step({"a.weight": 0.0, "b.weight": 1.0}, dead={"b.weight": [True, False]})
    verdict = gradients.dead([alive._replace(step=1), alive._replace(step=11), *[silent] * 5], {}, named=False)
    assert verdict is not None
    assert "no gradient has reached 'a.weight' since step 11: a rate that is too large kills" in verdict.message
    assert "pass model=" in verdict.message
    never = gradients.dead([silent] * 5, {})
    assert never is not None
    assert "no gradient reaches 'a.weight', and none has in any recorded step" in never.message
    assert "pass model=" not in never.message


def test_layers_are_compared_by_root_mean_square() -> None:
    sizes = {"a.weight": 30, "a.bias": 6, "b": 4}
    assert gradients.by_layer({"a.weight": 3.0, "a.bias": 3 * 3**0.5, "b": 4.0}, sizes) == pytest.approx(
        {"a": 1.0, "b": 2.0}
    )


# --- The recorder -----------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def optimizer_of(name: str, module: Any, params: Any) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = getattr(module, name)(params, lr=0.05)
    return optimizer


@pytest.mark.parametrize(
    ("module", "name"), [(torch_gd, name) for name in OURS] + [(torch.optim, name) for name in THEIRS]
)
def test_statistics_are_what_a_step_did(module: Any, name: str) -> None:
    model = network()
    optimizer = optimizer_of(name, module, model.parameters())
    recorder = StepRecorder(optimizer, model, every=2)
    expected = []
    for i in range(5):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        before = {n: p.detach().double() for n, p in model.named_parameters()}
        grads = {n: p.grad.double().norm().item() for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        if i % 2 == 0:
            updates = {n: (p.detach().double() - before[n]).norm().item() for n, p in model.named_parameters()}
            expected.append((i + 1, grads, {n: p.norm().item() for n, p in before.items()}, updates))
    records = recorder.read()
    assert [record.step for record in records] == [1, 3, 5]
    for record, (_, grads, weights, updates) in zip(records, expected):
        # At most 32 squares are summed in float32: 32 · 2^-24 = 2e-6. The update is a difference of float32 numbers,
        # which rounds once, by 1.1e-7.
        assert record.grad_norms == pytest.approx(grads, rel=3e-6)
        assert record.weight_norms == pytest.approx(weights, rel=3e-6)
        assert record.update_norms == pytest.approx(updates, rel=3e-6, abs=1e-9)
        assert record.grad_norm == pytest.approx(math.hypot(*grads.values()), rel=3e-6)
        ratio = math.hypot(*updates.values()) / math.hypot(*weights.values())
        assert record.update_ratio == pytest.approx(ratio, rel=1e-5)


def test_a_step_that_is_not_recorded_changes_nothing() -> None:
    runs = []
    for every in (1, 1000, None):
        model = network()
        optimizer = torch_gd.AdamW(model.parameters(), lr=0.05)
        if every is not None:
            StepRecorder(optimizer, model, every=every)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
        runs.append([p.detach().clone() for p in model.parameters()])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0]))


def test_closures_are_measured_by_the_gradients_they_make() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1)
    recorder = StepRecorder(optimizer, model, every=1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.ones(2, 4)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert recorder.read()[0].grad_norm > 0


def test_loss_scale_is_divided_out() -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = torch_gd.SGD([p], lr=0.1)
    recorder = StepRecorder(optimizer)
    optimizer.grad_scale = torch.tensor(1024.0)  # type: ignore[attr-defined]  # as GradScaler does
    optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    p.grad = torch.full((4,), 512.0)
    optimizer.step()
    assert recorder.read()[0].grad_norm == pytest.approx(1.0)


def test_names() -> None:
    model = network()
    names = [name for name, _ in model.named_parameters()]
    plain = torch_gd.SGD(model.parameters())
    named = torch_gd.SGD(model.named_parameters())
    assert list(StepRecorder(plain, model).parameters()) == names
    assert list(StepRecorder(named).parameters()) == names
    assert list(StepRecorder(plain).parameters()) == [f"group0[{i}]" for i in range(4)]


def test_only_the_last_records_are_kept() -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = torch_gd.SGD([p], lr=0.1)
    recorder = StepRecorder(optimizer, every=1, keep=3)
    for i in range(5):
        p.grad = torch.ones(4)
        optimizer.step()
        if i == 2:
            recorder.read()
    assert [record.step for record in recorder.read()] == [3, 4, 5]


def test_a_step_that_raised_is_not_recorded_at_the_next() -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = torch_gd.SGD([p], lr=0.1)
    recorder = StepRecorder(optimizer, every=2)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    with torch.no_grad():
        p.fill_(100.0)
    for _ in range(2):
        optimizer.step()
    assert [(record.step, record.update_ratio) for record in recorder.read()] == [(3, 0.0)]


def test_closing_takes_the_hooks_off() -> None:
    optimizer = torch_gd.SGD([nn.Parameter(torch.ones(4))], lr=0.1)
    with Monitor(optimizer, every=1) as monitor:
        optimizer.step()
    optimizer.step()
    assert len(monitor.statistics) == 1


def test_series_keeps_order_across_buffers_and_kinds() -> None:
    series = Series()
    numbers = [float(i) for i in range(CHUNK + 3)]
    memory = torch.zeros(1)
    for i, number in enumerate(numbers):
        memory.fill_(number)  # the series must hold a copy
        series.append(memory if i % 2 else number)
        if i in (5, CHUNK):
            assert list(series) == numbers[: i + 1]
        assert len(series) == i + 1
    assert list(series) == numbers
    with pytest.raises(ValueError, match="reduce it"):
        series.append(torch.zeros(2))


# --- Real runs --------------------------------------------------------------------------------------------------------


def verdicts(monitor: Monitor) -> set[str]:
    return {verdict.name for verdict in monitor.verdicts()}


def regression(lr: float, momentum: float = 0.0, steps: int = 200, condition: float = 30.0) -> Monitor:
    """Solve least squares by full batches. The largest curvature is 1, so plain rates above 2 diverge."""
    curvature = torch.logspace(0, -math.log10(condition), 10)
    p = nn.Parameter(torch.ones(10))
    optimizer = torch_gd.SGD([p], lr=lr, momentum=momentum)
    monitor = Monitor(optimizer, every=10)
    for _ in range(steps):
        loss = 0.5 * (curvature * p.square()).sum() + 1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.train_loss(loss)
    return monitor


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lr": 2.1}, {"diverging"}),
        ({"lr": 3.0, "steps": 4000}, {"diverging", "non-finite parameters"}),
        ({"lr": 0.1, "momentum": 0.99, "steps": 100}, {"oscillating"}),
        ({"lr": 1e-4}, {"crawling"}),
        ({"lr": 1e-12}, {"crawling"}),  # no step changes the loss
        ({"lr": 1.0, "steps": 1000}, {"plateau"}),
        ({"lr": 0.05}, set()),
    ],
)
def test_learning_rates(settings: dict[str, Any], expected: set[str]) -> None:
    assert verdicts(regression(**settings)) == expected


@pytest.mark.parametrize("seed", range(6))
def test_a_loss_that_still_falls_is_on_no_plateau(seed: int) -> None:
    """The losses of batches of 8 are so noisy that the fall over some dozens of steps does not stand out."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(512, 10, generator=generator)
    y = x @ torch.randn(10, 1, generator=generator)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    monitor = Monitor()
    for i in range(1, 145):
        batch = torch.randint(512, (8,), generator=generator)
        loss = nn.functional.mse_loss(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.train_loss(loss)
        if i % 12 == 0:
            assert "plateau" not in verdicts(monitor), i


def classification(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 60, every: int = 5) -> Monitor:
    """Learn 64 random labels by heart, and validate on 64 others."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 16, generator=generator), torch.randint(4, (128,), generator=generator)
    monitor = Monitor(optimizer, model, every=every)
    for i in range(steps):
        loss = nn.functional.cross_entropy(model(x[:64]), y[:64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.train_loss(loss)
        if i % 5 == 4:
            with torch.no_grad():
                monitor.validation_loss(nn.functional.cross_entropy(model(x[64:]), y[64:]))
    return monitor


def deep(depth: int, activation: type[nn.Module], deviation: float) -> nn.Sequential:
    torch.manual_seed(0)
    widths = [16] + [32] * depth + [4]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        linear = nn.Linear(a, b)
        nn.init.normal_(linear.weight, std=deviation / a**0.5)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


def test_random_labels_over_fit() -> None:
    model = deep(1, nn.ReLU, 1.4)
    assert verdicts(classification(model, torch_gd.Adam(model.parameters(), lr=0.01))) == {"over-fitting"}


def test_sigmoids_make_gradients_vanish_by_layer() -> None:
    model = deep(12, nn.Sigmoid, 1.0)
    monitor = classification(model, torch_gd.SGD(model.parameters(), lr=0.1), steps=15)
    verdict = next(v for v in monitor.verdicts() if v.name == "vanishing gradients")
    assert "0" in verdict.data["layers"]
    assert "24" not in verdict.data["layers"]  # the last
    rms = [verdict.data["layers"][str(2 * i)] for i in range(4)]
    assert rms == sorted(rms)  # smaller, the further from the loss


def test_large_weights_make_gradients_explode() -> None:
    model = deep(20, nn.ReLU, 3.0)
    monitor = classification(model, torch_gd.SGD(model.parameters(), lr=1e-12), steps=11)
    assert "exploding gradients" in verdicts(monitor)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_a_sound_initialisation_makes_neither(activation: type[nn.Module]) -> None:
    model = deep(20, activation, 1.4 if activation is nn.ReLU else 1.0)
    monitor = classification(model, torch_gd.SGD(model.parameters(), lr=0.01), steps=30)
    assert not verdicts(monitor) & {"vanishing gradients", "exploding gradients"}


def test_units_that_never_fire_are_dead() -> None:
    model = deep(2, nn.ReLU, 1.4)
    assert isinstance(model[0], nn.Linear)
    nn.init.constant_(model[0].bias[:16], -100.0)
    monitor = classification(model, torch_gd.SGD(model.parameters(), lr=0.01))
    verdict = next(v for v in monitor.verdicts() if v.name == "dead parameters")
    assert verdict.data["units"]["0.weight"] == 0.5
    assert verdict.data["parameters"] == []


def test_units_that_a_large_rate_kills_are_not_taken_for_vanishing_gradients() -> None:
    model = deep(2, nn.ReLU, 1.4)
    found = classification(model, torch_gd.SGD(model.parameters(), lr=100.0)).verdicts()
    assert "vanishing gradients" not in {verdict.name for verdict in found}
    verdict = next(v for v in found if v.name == "dead parameters")
    assert "0.weight" in verdict.data["died"]


def test_a_layer_that_is_not_used_is_dead() -> None:
    model = deep(1, nn.ReLU, 1.4)
    spare = nn.Linear(3, 3)
    model.spare = spare
    optimizer = torch_gd.SGD(model.parameters(), lr=0.01)
    model.forward = lambda x: nn.Sequential.forward(model[:3], x)  # type: ignore[method-assign]
    verdict = next(v for v in classification(model, optimizer).verdicts() if v.name == "dead parameters")
    assert verdict.data["parameters"] == ["spare.weight", "spare.bias"]


def test_tokens_that_are_not_in_the_batch_are_not_dead() -> None:
    model = nn.Sequential(nn.Embedding(100, 8), nn.Flatten(), nn.Linear(16, 4))
    optimizer = torch_gd.SGD(model.parameters(), lr=0.01)
    monitor = Monitor(optimizer, model, every=1)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.tensor([[1, 2], [3, 4]])), torch.tensor([0, 1])).backward()
        optimizer.step()
    assert verdicts(monitor) == set()


def test_a_weight_of_nan_is_named() -> None:
    model = deep(1, nn.ReLU, 1.4)
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    verdict = classification(model, torch_gd.SGD(model.parameters(), lr=0.01), steps=1).verdicts()[0]
    assert verdict.name == "non-finite parameters"
    assert "2.weight" in verdict.data["parameters"]


# --- Reports and errors -----------------------------------------------------------------------------------------------


def test_report() -> None:
    monitor = Monitor(torch_gd.SGD([torch.ones(1, requires_grad=True)]))
    assert monitor.report() == "too early to judge: the training loss (0 records of 20), gradients (0 records of 3)"
    for i in range(20):
        monitor.train_loss(1.0 / (i + 1))
    monitor.validation_loss(1.0)
    assert monitor.report().split("\n")[2:] == [
        "nothing wrong was found",
        "too early to judge: over-fitting (1 records of 4), gradients (0 records of 3)",
    ]
    report = regression(lr=2.1).report()
    assert "training loss: 2." in report
    assert "update-to-weight ratio" in report
    assert "diverging: the loss rose from" in report


def test_scalars() -> None:
    scalars = classification(model := network_of(16, 4), torch_gd.SGD(model.parameters(), lr=0.01)).scalars()
    names = [name for name, _ in model.named_parameters()]
    assert set(scalars) == {
        "loss/train",
        "loss/validation",
        "grad_norm",
        "update_ratio",
        *(f"{kind}/{name}" for kind in ("grad_norm", "update_ratio") for name in names),
    }
    # Plain SGD: the update is lr times the gradient.
    parts = [scalars[f"grad_norm/{name}"] for name in names]
    assert scalars["grad_norm"] == pytest.approx(math.hypot(*parts))


def network_of(inputs: int, outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))


@pytest.mark.parametrize("name", ["every", "keep", "window"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (4.5, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("50", TypeError)],
)
def test_bad_arguments_are_named(name: str, value: Any, error: type[Exception]) -> None:
    for optimizer in (None, torch_gd.SGD([torch.ones(1, requires_grad=True)])):
        with pytest.raises(error, match=rf"\b{name}\b.*{value}"):
            Monitor(optimizer, **{name: value})


@pytest.mark.parametrize("loss", [None, "0.5", [1.0], torch.tensor(1j)])
def test_a_loss_that_is_no_number_is_refused(loss: Any) -> None:
    monitor = Monitor()
    for record in (monitor.train_loss, monitor.validation_loss):
        with pytest.raises(TypeError, match=r"^Invalid loss: .*; it must be "):
            record(loss)
    assert (monitor.train_losses, monitor.validation_losses) == ([], [])


@pytest.mark.parametrize("kind", [Monitor, StepRecorder])
def test_a_model_whose_parameters_are_not_the_optimizers(kind: Any) -> None:
    optimizer = torch_gd.SGD(network().parameters())
    with pytest.raises(ValueError, match="none of its parameters is the optimizer's"):
        kind(optimizer, network())


def test_a_model_without_an_optimizer() -> None:
    with pytest.raises(ValueError, match="optimizer"):
        Monitor(model=network())


def recorded() -> tuple[Monitor, StepRecorder]:
    """Return a monitor and a recorder that have seen three steps."""
    model = network()
    optimizer = torch_gd.SGD(model.parameters(), lr=0.1)
    monitor, recorder = Monitor(optimizer, model, every=2), StepRecorder(optimizer, keep=1, every=1)
    for _ in range(3):
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        monitor.train_loss(1.0)
    return monitor, recorder


def one_step() -> StepStatistics:
    return StepStatistics(7, {"a": 3.0, "b": 4.0}, {"a": 0.0, "b": 2.0}, {"a": 0.0, "b": 1.0}, {})


REPRS: list[tuple[Callable[[], Any], str]] = [
    (lambda: Monitor(), "Monitor(): training losses: 0, validation losses: 0"),
    (
        lambda: recorded()[0],
        "Monitor(optimizer=SGD, model=Sequential, every=2): training losses: 3, validation losses: 0, "
        "recorded steps: 2",
    ),
    (lambda: recorded()[1], "StepRecorder(SGD, every=1, keep=1): steps: 3, recorded: 1"),
    (one_step, "StepStatistics(step=7, 2 parameters, grad_norm=5, update_ratio=0.5)"),
    (lambda: Series(), "Series(0 numbers)"),
]


@pytest.mark.parametrize(("make", "text"), REPRS, ids=[text.partition("(")[0] for _, text in REPRS])
def test_reprs(make: Callable[[], Any], text: str) -> None:
    assert repr(make()) == text


@pytest.mark.parametrize("kind", [Monitor, StepRecorder])
def test_a_swapped_argument_is_named(kind: Any) -> None:
    model = network()
    optimizer = torch_gd.SGD(model.parameters())
    with pytest.raises(TypeError, match=r"^Sequential is not an .* Sequential; it comes first, then the model"):
        kind(model, optimizer)
    with pytest.raises(TypeError, match=r"^Sequential is not an Optimizer"):
        kind(model)
    with pytest.raises(TypeError, match=r"^list is not an Optimizer: optimizer is .a tensor of shape"):
        kind(list(model.parameters()))
    with pytest.raises(TypeError, match=r"^model is list, not a torch.nn.Module"):
        kind(optimizer, list(model.parameters()))
    with pytest.raises(TypeError, match=r"^type is not an Optimizer: .* the class SGD; pass an instance, SGD\("):
        kind(torch_gd.SGD)
    with pytest.raises(TypeError, match=r"^model is the class Linear; pass an instance, Linear\("):
        kind(optimizer, nn.Linear)
