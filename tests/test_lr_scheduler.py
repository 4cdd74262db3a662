"""Learning-rate schedules: values beside torch and transformers, composition, state, tensors, reprs and errors."""

import copy
import inspect
import io
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_lr

import torch_gd
from torch_gd.lr_scheduler import (
    ConstantSchedule,
    CosineRestartsSchedule,
    CosineSchedule,
    ExponentialSchedule,
    GreedyLR,
    InverseSqrtSchedule,
    LinearSchedule,
    MultiStepSchedule,
    OneCycleSchedule,
    PolynomialSchedule,
    Schedule,
    StepSchedule,
    Warmup,
    WarmupStableDecaySchedule,
    functions,
    get_scheduler,
)

BASES = (0.1, 0.003)  # learning rates of two groups
STEPS = 1000
# torch's own chainable forms multiply step by step: a few roundings of 1.1e-16 at each of 1,000 steps.
TIGHT = 1e-12

Make = Callable[[Optimizer], torch_lr.LRScheduler]

# Every schedule, with 20 steps of warm-up; the run has 100 steps if the schedule has an end.
SCHEDULES: dict[str, Make] = {
    "constant": lambda o: ConstantSchedule(o, warmup=20),
    "linear": lambda o: LinearSchedule(o, 100, floor=0.1, warmup=20),
    "cosine": lambda o: CosineSchedule(o, 100, floor=0.05, warmup=Warmup(0.2, "cosine")),
    "cosine to zero": lambda o: CosineSchedule(o, 100, warmup=20),
    "restarts": lambda o: CosineRestartsSchedule(o, 10, 2, peak_decay=0.7, total_steps=100, warmup=20),
    "polynomial": lambda o: PolynomialSchedule(o, 100, power=2.0, warmup=Warmup(20, "exponential", 0.01)),
    "exponential": lambda o: ExponentialSchedule(o, 0.97, warmup=Warmup(20, "constant", 0.3)),
    "step": lambda o: StepSchedule(o, 15, 0.5, warmup=Warmup(20, "1-sqrt", 0.2)),
    "multi-step": lambda o: MultiStepSchedule(o, [10, 30], 0.5, total_steps=100, warmup=20),
    "inverse sqrt": lambda o: InverseSqrtSchedule(o, warmup=20),
    **{
        f"stable-decay {tail}": lambda o, tail=tail: WarmupStableDecaySchedule(o, 100, 0.3, tail, 0.1, warmup=20)
        for tail in functions.TAILS
    },
    "one-cycle": lambda o: OneCycleSchedule(o, 100, warmup=20),
    "a function of one's own": lambda o: Schedule(o, lambda step: 1 / (1 + step), 100, warmup=20),
}


def optimizer(
    bases: tuple[float | Tensor, ...] = BASES, kind: Callable[..., Optimizer] = torch.optim.SGD, **options: Any
) -> Optimizer:
    params = [{"params": [torch.zeros(2, requires_grad=True)], "lr": base} for base in bases]
    if kind is torch.optim.SGD:
        options.setdefault("momentum", 0.9)
    return kind(params, lr=BASES[0], **options)


def lrs(opt: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in opt.param_groups]


def run(opt: Optimizer, scheduler: torch_lr.LRScheduler, steps: int) -> list[list[float]]:
    """Return the learning rates at steps 0, 1, … `steps`."""
    values = [lrs(opt)]
    for _ in range(steps):
        opt.step()
        scheduler.step()
        values.append(lrs(opt))
    return values


def same(ours: list[list[float]], theirs: list[list[float]], tolerance: float = TIGHT) -> None:
    torch.testing.assert_close(
        torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=tolerance
    )


# --- Values -----------------------------------------------------------------------------------------------------------


def sequential(warmup: Make, decay: Make, milestone: int) -> Make:
    return lambda o: torch_lr.SequentialLR(o, [warmup(o), decay(o)], [milestone])


TORCH: dict[str, tuple[Make, Make]] = {
    "LinearLR up": (
        lambda o: ConstantSchedule(o, warmup=Warmup(400, start=0.25)),
        lambda o: torch_lr.LinearLR(o, 0.25, 1.0, 400),
    ),
    "LinearLR down": (
        lambda o: LinearSchedule(o, STEPS, floor=0.2),
        lambda o: torch_lr.LinearLR(o, 1.0, 0.2, STEPS),
    ),
    "LinearLR held": (lambda o: LinearSchedule(o, 600, floor=0.2), lambda o: torch_lr.LinearLR(o, 1.0, 0.2, 600)),
    "ConstantLR": (
        lambda o: ConstantSchedule(o, warmup=Warmup(300, "constant", 0.5)),
        lambda o: torch_lr.ConstantLR(o, 0.5, 300),
    ),
    "CosineAnnealingLR": (lambda o: CosineSchedule(o, STEPS), lambda o: torch_lr.CosineAnnealingLR(o, STEPS)),
    "CosineAnnealingWarmRestarts": (
        lambda o: CosineRestartsSchedule(o, 50, 2),
        lambda o: torch_lr.CosineAnnealingWarmRestarts(o, 50, 2),
    ),
    "PolynomialLR": (
        lambda o: PolynomialSchedule(o, 900, power=1.7),
        lambda o: torch_lr.PolynomialLR(o, 900, power=1.7),
    ),
    "ExponentialLR": (lambda o: ExponentialSchedule(o, 0.995), lambda o: torch_lr.ExponentialLR(o, 0.995)),
    "StepLR": (lambda o: StepSchedule(o, 150, 0.3), lambda o: torch_lr.StepLR(o, 150, 0.3)),
    "MultiStepLR": (
        lambda o: MultiStepSchedule(o, [200, 201, 700], 0.3),
        lambda o: torch_lr.MultiStepLR(o, [200, 201, 700], 0.3),
    ),
    "SequentialLR of LinearLR and CosineAnnealingLR": (
        lambda o: CosineSchedule(o, STEPS, warmup=Warmup(100, start=0.01)),
        sequential(
            lambda o: torch_lr.LinearLR(o, 0.01, 1.0, 100), lambda o: torch_lr.CosineAnnealingLR(o, STEPS - 100), 100
        ),
    ),
    "SequentialLR of LinearLR and ExponentialLR": (
        lambda o: ExponentialSchedule(o, 0.995, warmup=Warmup(100, start=0.01)),
        sequential(lambda o: torch_lr.LinearLR(o, 0.01, 1.0, 100), lambda o: torch_lr.ExponentialLR(o, 0.995), 100),
    ),
    "SequentialLR of LinearLR and PolynomialLR": (
        lambda o: PolynomialSchedule(o, 900, power=2.0, warmup=Warmup(100, start=0.01)),
        sequential(lambda o: torch_lr.LinearLR(o, 0.01, 1.0, 100), lambda o: torch_lr.PolynomialLR(o, 800, 2.0), 100),
    ),
    "SequentialLR of ConstantLR and StepLR": (
        lambda o: StepSchedule(o, 150, 0.3, warmup=Warmup(100, "constant", 0.1)),
        sequential(lambda o: torch_lr.ConstantLR(o, 0.1, 100), lambda o: torch_lr.StepLR(o, 150, 0.3), 100),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_values_of_torch(name: str) -> None:
    ours, theirs = TORCH[name]
    a, b = optimizer(), optimizer()
    same(run(a, ours(a), STEPS), run(b, theirs(b), STEPS))


def test_cosine_floor_is_eta_min() -> None:
    a, b = optimizer((0.1,)), optimizer((0.1,))
    ours, theirs = CosineSchedule(a, STEPS, floor=0.2), torch_lr.CosineAnnealingLR(b, STEPS, eta_min=0.02)
    same(run(a, ours, STEPS), run(b, theirs, STEPS))


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch_gd.SGD, torch_gd.AdamW])
@pytest.mark.parametrize("pct_start", [0.3, 0.45])
def test_one_cycle_of_torch(kind: type[Optimizer], anneal: Any, three_phase: bool, pct_start: float) -> None:
    options: dict[str, Any] = {"momentum": 0.5} if "SGD" in kind.__name__ else {}
    a, b = (optimizer(kind=kind, **options) for _ in range(2))
    ours = OneCycleSchedule(a, STEPS, pct_start, anneal, three_phase=three_phase)
    theirs = torch_lr.OneCycleLR(
        b, list(BASES), STEPS, pct_start=pct_start, anneal_strategy=anneal, three_phase=three_phase
    )

    def momentum(o: Optimizer) -> list[float]:
        return [group["momentum"] if options else group["betas"][0] for group in o.param_groups]

    for _ in range(STEPS):  # torch's last value is that of step STEPS - 1
        same([lrs(a), momentum(a)], [lrs(b), momentum(b)])
        a.step(), b.step()
        ours.step()
        if theirs.last_epoch < STEPS - 1:
            theirs.step()
    same([lrs(a), momentum(a)], [lrs(b), momentum(b)])


HUGGING_FACE: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 2.2}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 7}),
    ("polynomial", {}),
    ("polynomial", {"power": 2.5, "lr_end": 0.01}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 50}),
    ("cosine_with_min_lr", {"min_lr": 0.01}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.3, "num_cycles": 1.5}),
    ("cosine_warmup_with_min_lr", {"min_lr": 0.01}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1, "warmup_lr_rate": 0.3}),
    *(
        (
            "warmup_stable_decay",
            {"num_decay_steps": 200, "warmup_type": kind, "decay_type": kind, "min_lr_ratio": 0.05},
        )
        for kind in ("linear", "cosine", "1-sqrt")
    ),
    ("warmup_stable_decay", {"num_decay_steps": 150.5, "num_stable_steps": 99.3}),
    ("warmup_stable_decay", {"num_decay_steps": 0}),
]


@pytest.mark.parametrize(
    ("warmup", "total"), [(0, STEPS), (1, STEPS), (2, STEPS), (76.7, 1000.4), (800, STEPS), (STEPS, STEPS)]
)
@pytest.mark.parametrize(("name", "options"), HUGGING_FACE, ids=str)
def test_values_of_transformers(name: str, options: dict[str, Any], warmup: float, total: float) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if warmup == STEPS and options.get("num_decay_steps") == 200:
        pytest.skip("stages longer than the run, which only transformers takes")
    a, b = optimizer(), optimizer()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Both num_training_steps and num_stable_steps")
        theirs = transformers.get_scheduler(name, b, warmup, total, options)
    ours = torch_gd.get_scheduler(name, a, warmup, total, options)
    assert isinstance(ours, torch_lr.LRScheduler)
    # If the warm-up fills the run there is no decay, and transformers disagrees with itself on what comes after.
    steps = STEPS - 1 if warmup == STEPS else STEPS
    same(run(a, ours, steps), run(b, theirs, steps))
    assert ours.get_last_lr() == lrs(a)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, np.int64, float])
def test_lengths_of_other_types_are_their_number(kind: Callable[[int], Any]) -> None:
    a, b = optimizer(), optimizer()
    ours = get_scheduler("linear", a, kind(20), kind(100))
    assert run(a, ours, 100) == run(b, get_scheduler("linear", b, 20, 100), 100)
    if kind is not float:  # a fraction of the run, here
        ours = CosineSchedule(a, kind(100), warmup=kind(20))
        assert [type(ours.total_steps), type(ours.warmup_steps)] == [int, int]
        assert [ours.total_steps, ours.warmup_steps] == [100, 20]


@pytest.mark.parametrize(
    "make",
    [
        lambda o: WarmupStableDecaySchedule(o, 10, decay=0, warmup=10),
        lambda o: get_scheduler("warmup_stable_decay", o, 10, 10, {"num_decay_steps": 0}),
        *(lambda o, kind=kind: kind(o, 10, warmup=10) for kind in (LinearSchedule, CosineSchedule, PolynomialSchedule)),
        lambda o: CosineRestartsSchedule(o, 5, total_steps=10, warmup=10),
        lambda o: OneCycleSchedule(o, 10, div_factor=1, warmup=10),  # whose start is the peak
    ],
)
def test_a_warmup_as_long_as_the_run_climbs_to_the_start(make: Callable[[Optimizer], Schedule]) -> None:
    scheduler = make(optimizer())
    assert [scheduler.factor(step) for step in range(11)] == [step / 10 for step in range(11)]


def test_accelerate_steps_every_schedule() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    endless = {name: lambda o, name=name: get_scheduler(name, o, 3) for name, _ in HUGGING_FACE[7:11]}
    accelerator = accelerate.Accelerator(cpu=True)
    for name, make in {**SCHEDULES, **endless}.items():
        a, b = optimizer(), optimizer()
        prepared, scheduler = accelerator.prepare(a, make(a))
        values = [lrs(a)]
        for _ in range(25):
            prepared.step(), scheduler.step()
            values.append(lrs(a))
        assert values == run(b, make(b), 25), name


def test_every_name_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    adaptive = {"reduce_lr_on_plateau", "greedy"}
    ours = {name for name, _ in HUGGING_FACE} | adaptive
    assert {kind.value for kind in transformers.SchedulerType} <= ours
    member = transformers.SchedulerType.LINEAR
    assert isinstance(get_scheduler(member, optimizer(), 1, 10), Schedule)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reduce_lr_on_plateau", {"patience": 2, "factor": 0.5}),
        ("greedy", {"patience": 2}),
        ("greedy", {"patience": 1, "smooth": True, "window_size": 5, "cooldown": 2, "warmup": 3, "min_lr": 1e-3}),
        ("greedy", {"patience": 0, "mode": "max", "threshold_mode": "rel", "threshold": 1e-3, "max_lr": [0.2, 0.01]}),
        ("greedy", {"patience": 0, "factor": 0.5, "min_lr": [0.05, 0.001], "reset_start": 4}),
    ],
    ids=str,
)
def test_adaptive_values_of_transformers(name: str, options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if name not in {kind.value for kind in transformers.SchedulerType}:
        pytest.skip(f"this transformers has no {name}")
    a, b = optimizer(), optimizer()
    ours = get_scheduler(name, a, scheduler_specific_kwargs=options)
    theirs = transformers.get_scheduler(name, b, scheduler_specific_kwargs=options)
    generator = torch.Generator().manual_seed(0)
    changes = set()
    for step in range(400):
        metric = math.exp(-step / 50) + 0.3 * math.sin(step / 9) + 0.05 * float(torch.rand((), generator=generator))
        ours.step(metric)  # type: ignore[arg-type]  # a metric, as ReduceLROnPlateau's
        theirs.step(metric)
        same([lrs(a)], [lrs(b)])
        changes.add(tuple(lrs(a)))
    assert len(changes) > 3


def test_a_second_schedule_by_name_starts_anew() -> None:
    opt = optimizer()
    run(opt, get_scheduler("linear", opt, 2, 10), 6)
    assert lrs(opt) == pytest.approx([base / 2 for base in BASES])
    get_scheduler("linear", opt, 0, 10)
    assert lrs(opt) == list(BASES)


def test_after_a_run_that_ended_at_zero_a_schedule_starts_anew() -> None:
    opt = optimizer()
    run(opt, LinearSchedule(opt, 10), 10)
    values = run(opt, CosineSchedule(opt, 10), 10)
    fresh = optimizer()
    same(values, run(fresh, CosineSchedule(fresh, 10), 10), 0)


def test_the_paper_of_the_inverse_square_root() -> None:
    """Vaswani et al. 2017, equation 3: min(t^-½, t · W^-3/2), divided by its peak W^-½."""
    opt, warmup = optimizer((1.0,)), 50
    for step, (value,) in enumerate(run(opt, InverseSqrtSchedule(opt, warmup=warmup), 300)[1:], 1):
        assert value == pytest.approx(min(step**-0.5, step * warmup**-1.5) * warmup**0.5, abs=TIGHT)


@pytest.mark.parametrize(
    ("tail", "half"), [("linear", 0.5), ("cosine", 0.5), ("1-sqrt", 1 - math.sqrt(0.5)), ("sqrt", math.sqrt(0.5))]
)
def test_tails(tail: str, half: float) -> None:
    schedule = WarmupStableDecaySchedule(optimizer(), 100, decay=40, tail=tail, warmup=20)
    assert [schedule.factor(step) for step in (0, 10, 20, 60, 100)] == [0.0, 0.5, 1.0, 1.0, 0.0]
    assert schedule.factor(80) == pytest.approx(half, abs=TIGHT)


@pytest.mark.parametrize(
    ("kind", "start", "half"),
    [
        ("linear", 0.0, 0.5),
        ("linear", 0.5, 0.75),
        ("cosine", 0.2, 0.6),
        ("exponential", 0.01, 0.1),
        ("constant", 0.3, 0.3),
        ("1-sqrt", 0.0, 1 - math.sqrt(0.5)),
    ],
)
@pytest.mark.parametrize("length", [50, 0.25])
def test_warmups(kind: str, start: float, half: float, length: int | float) -> None:
    schedule = ConstantSchedule(optimizer(), 200, Warmup(length, kind, start))
    assert schedule.warmup_steps == 50
    assert schedule.factor(0) == pytest.approx(start, abs=TIGHT)
    assert schedule.factor(25) == pytest.approx(half, abs=TIGHT)
    assert schedule.factor(50) == schedule.factor(200) == 1.0


def test_restarts_shrink_their_peaks() -> None:
    schedule = CosineRestartsSchedule(optimizer(), 10, 2, peak_decay=0.5, floor=0.1)
    assert [schedule.factor(step) for step in (0, 10, 30, 70)] == pytest.approx([1.0, 0.55, 0.325, 0.2125], abs=TIGHT)


@pytest.mark.parametrize("mult", [1, 2])
def test_a_run_does_not_end_with_a_restart(mult: int) -> None:
    total = 5 + 10 * (1 + mult + mult**2)
    schedule = CosineRestartsSchedule(optimizer(), 10, mult, floor=0.25, total_steps=total, warmup=5)
    assert schedule.factor(total) == schedule.factor(total + 7) == 0.25
    assert schedule.factor(15) == 1.0


# --- A closed form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch_gd.AdamW])
@pytest.mark.filterwarnings("ignore:Detected call of")  # torch warns of step(n) before any training
def test_exact_at_every_step_however_it_is_reached(name: str, kind: type[Optimizer]) -> None:
    """`step()`, `step(n)` and `factor` agree to the last bit, and past the end the last value is held."""
    opt = optimizer(kind=kind)
    scheduler = SCHEDULES[name](opt)
    assert isinstance(scheduler, Schedule)
    walked = run(opt, scheduler, 130)
    assert walked == [[base * scheduler.factor(step) for base in BASES] for step in range(131)]
    assert scheduler.get_last_lr() == walked[-1]
    if math.isfinite(scheduler.total_steps):
        assert walked[100:] == [walked[100]] * 31
    for step in (57, 3, 99, 20):
        jumped = optimizer(kind=kind)
        other = SCHEDULES[name](jumped)
        with pytest.warns(UserWarning, match="epoch parameter"):
            other.step(step)
        assert run(jumped, other, 10) == walked[step : step + 11]


@pytest.mark.parametrize("step", [0, 1, 20, 73, 150])
def test_resuming_by_last_epoch(step: int) -> None:
    opt = optimizer()
    walked = run(opt, CosineSchedule(opt, 100, warmup=20), 160)
    resumed = optimizer()
    resumed.load_state_dict(opt.state_dict())  # holds initial_lr
    scheduler = CosineSchedule(resumed, 100, warmup=20, last_epoch=step)
    assert run(resumed, scheduler, 5) == walked[step + 1 : step + 7]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("step", [0, 7, 20, 60])
def test_state_round_trip(name: str, step: int) -> None:
    opt = optimizer()
    scheduler = SCHEDULES[name](opt)
    run(opt, scheduler, step)
    file = io.BytesIO()
    torch.save({"optimizer": opt.state_dict(), "scheduler": scheduler.state_dict()}, file)
    expected = run(opt, scheduler, 60)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    opt = optimizer()
    scheduler = SCHEDULES[name](opt)
    opt.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    assert run(opt, scheduler, 60) == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"factors_in_lr": 1.0}, "factors_in_lr in state_dict: 1.0; it must have one"),
        ({"base_lrs": 0.1}, "base_lrs in state_dict: 0.1; it must have one"),
        ({"last_epoch": 99}, "99 is too far"),
    ],
)
def test_a_state_that_is_wrong_changes_nothing(wrong: dict[str, Any], message: str) -> None:
    def decay(step: float) -> float:
        if step == 99:
            raise TypeError("99 is too far")
        return 0.5

    opt = optimizer()
    scheduler = Schedule(opt, decay)
    opt.param_groups[0]["lr"] *= 0.5  # by another schedule, as it seems
    run(opt, scheduler, 2)
    before = copy.deepcopy(scheduler.state_dict())
    assert before["_others"] == [0.5, 1.0]
    with pytest.raises(TypeError, match=message):
        scheduler.load_state_dict(before | wrong)
    assert scheduler.state_dict() == before


def test_a_state_of_transformers_is_understood() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    a, b = optimizer(), optimizer()
    theirs = transformers.get_scheduler("cosine", b, 10, 100)
    run(b, theirs, 30)
    ours = get_scheduler("cosine", a, 10, 100)
    a.load_state_dict(b.state_dict())
    ours.load_state_dict(theirs.state_dict())
    same(run(a, ours, 70), run(b, theirs, 70))


@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(1, 500),
    warmup=st.floats(0, 1),
    floor=st.floats(0, 1),
    kind=st.sampled_from(["linear", "cosine", "1-sqrt"]),
    start=st.floats(0, 1),
    step=st.integers(0, 700),
)
def test_factors_stay_between_start_floor_and_peak(
    total: int, warmup: float, floor: float, kind: str, start: float, step: int
) -> None:
    opt, climb = optimizer(), Warmup(warmup, kind, start)
    for schedule in (
        LinearSchedule(opt, total, floor, climb),
        CosineSchedule(opt, total, floor, climb),
        PolynomialSchedule(opt, total, 2.0, floor, climb),
    ):
        value = schedule.factor(step)
        # Sums such as start + (1 - start) may round to either side of 1.
        assert min(start, floor) - 1e-15 <= value <= 1 + 1e-15
        if 0 < step < schedule.warmup_steps:
            assert value >= schedule.factor(step - 1) - 1e-15


# --- Composition ------------------------------------------------------------------------------------------------------


def test_in_sequential() -> None:
    """Each schedule starts from its own base learning rate at its milestone, whatever the rate was before."""
    opt = optimizer()
    chain = torch_lr.SequentialLR(
        opt,
        [
            ConstantSchedule(opt, warmup=10),
            torch_lr.ExponentialLR(opt, 0.9),
            CosineSchedule(opt, 50, warmup=5),
        ],
        [10, 20],
    )
    values = run(opt, chain, 70)
    cosine = CosineSchedule(optimizer(), 50, warmup=5)
    factors = [
        *(step / 10 for step in range(10)),
        *(0.9**step for step in range(10)),
        *(cosine.factor(step) for step in range(51)),
    ]
    same(values, [[base * factor for base in BASES] for factor in factors])


CHAINS: dict[str, tuple[list[Make], Callable[[int], float]]] = {
    "ours and ours": (
        [
            lambda o: ConstantSchedule(o, warmup=Warmup(10, start=0.1)),
            lambda o: ExponentialSchedule(o, 0.99, warmup=Warmup(5, "constant", 0.5)),
        ],
        lambda n: min(1, 0.1 + 0.9 * n / 10) * (0.5 if n < 5 else 0.99 ** (n - 5)),
    ),
    "warm-up from zero, then a decay": (
        [lambda o: ConstantSchedule(o, warmup=10), lambda o: ExponentialSchedule(o, 0.99)],
        lambda n: min(1, n / 10) * 0.99**n,
    ),
    "two from zero": (
        [lambda o: ConstantSchedule(o, warmup=10), lambda o: ConstantSchedule(o, warmup=Warmup(4, "cosine"))],
        lambda n: min(1, n / 10) * (0.5 - 0.5 * math.cos(math.pi * min(1, n / 4))),
    ),
    "ours from zero and torch's": (
        [lambda o: LinearSchedule(o, 100, floor=0.1, warmup=10), lambda o: torch_lr.ExponentialLR(o, 0.97)],
        lambda n: (n / 10 if n < 10 else max(0.1, 1 - 0.9 * (n - 10) / 90)) * 0.97**n,
    ),
    "torch's and ours": (
        [
            lambda o: torch_lr.LinearLR(o, 0.2, 1.0, 10),
            lambda o: torch_lr.StepLR(o, 30, 0.5),
            lambda o: CosineSchedule(o, 100, floor=0.1),
        ],
        lambda n: (
            min(1, 0.2 + 0.8 * n / 10) * 0.5 ** (n // 30) * (0.1 + 0.45 * (1 + math.cos(math.pi * min(n, 100) / 100)))
        ),
    ),
    "restarts that touch zero in between": (
        [
            lambda o: Schedule(o, lambda n: float(n % 10 != 0 or n == 0)),
            lambda o: ConstantSchedule(o, warmup=Warmup(1, start=0.5)),
        ],
        lambda n: float(n % 10 != 0 or n == 0) * (0.5 if n == 0 else 1.0),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("tensor", [False, True])
def test_in_chained_scheduler_factors_multiply(name: str, tensor: bool) -> None:
    makes, factor = CHAINS[name]
    bases: tuple[Any, ...] = tuple(torch.tensor(base, dtype=torch.float64) for base in BASES) if tensor else BASES
    opt = optimizer(bases)
    chain = torch_lr.ChainedScheduler([make(opt) for make in makes], opt)
    same(run(opt, chain, 120), [[base * factor(step) for base in BASES] for step in range(121)])
    assert list(map(float, chain.get_last_lr())) == lrs(opt)


@pytest.mark.parametrize("step", [0, 1, 13, 25])
@pytest.mark.parametrize("sequential", [False, True], ids=["ChainedScheduler", "SequentialLR"])
def test_a_chain_resumes(step: int, sequential: bool) -> None:
    def build() -> tuple[Optimizer, torch_lr.LRScheduler]:
        opt = optimizer()
        parts = [ConstantSchedule(opt, warmup=10), torch_lr.ExponentialLR(opt, 0.9), LinearSchedule(opt, 50)]
        if sequential:
            return opt, torch_lr.SequentialLR(opt, parts, [13, 20])
        return opt, torch_lr.ChainedScheduler(parts, opt)

    opt, chain = build()
    run(opt, chain, step)
    saved = copy.deepcopy((opt.state_dict(), chain.state_dict()))
    other, resumed = build()
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert run(other, resumed, 60) == run(opt, chain, 60)


def test_a_hand_on_the_learning_rate_is_kept_as_a_factor() -> None:
    opt = optimizer()
    scheduler = LinearSchedule(opt, 100)
    run(opt, scheduler, 10)
    opt.param_groups[0]["lr"] *= 0.5
    opt.step(), scheduler.step()
    assert lrs(opt) == pytest.approx([BASES[0] * 0.5 * 0.89, BASES[1] * 0.89], abs=TIGHT)


REMADE: dict[str, tuple[Make, Make]] = {
    "the same": (lambda o: CosineSchedule(o, 100, warmup=5), lambda o: CosineSchedule(o, 100, warmup=5)),
    "first from zero": (lambda o: CosineSchedule(o, 100, warmup=5), lambda o: CosineSchedule(o, 100)),
    "second from zero": (lambda o: CosineSchedule(o, 100), lambda o: CosineSchedule(o, 100, warmup=5)),
    "neither from zero": (
        lambda o: CosineSchedule(o, 100, warmup=Warmup(5, start=0.1)),
        lambda o: LinearSchedule(o, 50, warmup=Warmup(5, start=0.3)),
    ),
}


@pytest.mark.parametrize("name", REMADE)
@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("used", [0, 1], ids=["the first is used", "the second is used"])
@pytest.mark.parametrize("trained", [0, 1, 30], ids="trained {}".format)
def test_a_schedule_that_is_not_stepped_does_not_count(name: str, tensor: bool, used: int, trained: int) -> None:
    """From the first step on, which is where torch's `LambdaLR` made twice is from the beginning."""
    bases: tuple[Any, ...] = tuple(torch.tensor(base, dtype=torch.float64) for base in BASES) if tensor else BASES
    opt = optimizer(bases)
    if trained:
        run(opt, LinearSchedule(opt, 40, warmup=3), trained)
    pair = [make(opt) for make in REMADE[name]]
    chosen = pair[used]
    assert isinstance(chosen, Schedule)
    values = run(opt, chosen, 60)[1:]
    same(values, [[base * chosen.factor(step) for base in BASES] for step in range(1, 61)])


def test_a_schedule_made_thrice_in_one_name() -> None:
    opt = optimizer()
    for _ in range(3):
        scheduler = CosineSchedule(opt, 100, warmup=Warmup(5, start=0.1))
    same(run(opt, scheduler, 20)[1:], [[base * scheduler.factor(step) for base in BASES] for step in range(1, 21)])


def test_after_half_a_run_a_schedule_starts_anew() -> None:
    """As torch's `LambdaLR` does; and the first one still multiplies if it goes on in a chain with the second."""
    opt = optimizer()
    first = LinearSchedule(opt, 100)
    run(opt, first, 50)
    second = ExponentialSchedule(opt, 0.9)
    assert lrs(opt) == list(BASES)
    values = run(opt, torch_lr.ChainedScheduler([first, second], opt), 10)[1:]
    same(values, [[base * 0.9**n * (0.5 - n / 100) for base in BASES] for n in range(1, 11)])


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("trained", [0, 5])
def test_a_chain_counts_whatever_was_made_before(order: int, trained: int) -> None:
    opt = optimizer()
    if trained:
        run(opt, LinearSchedule(opt, 10), trained)
    LinearSchedule(opt, 100, warmup=Warmup(5, start=0.2))  # never stepped
    parts = [ConstantSchedule(opt, warmup=Warmup(10, start=0.1)), CosineSchedule(opt, 50, warmup=Warmup(4, start=0.3))]
    values = run(opt, torch_lr.ChainedScheduler(parts[::order], opt), 40)[1:]
    expected = [[base * parts[0].factor(n) * parts[1].factor(n) for base in BASES] for n in range(1, 41)]
    same(values, expected)


def test_a_rate_set_by_hand_between_two_schedules_is_kept() -> None:
    opt = optimizer((0.1,))
    CosineSchedule(opt, 100, warmup=Warmup(5, start=0.1))
    opt.param_groups[0]["lr"] = 0.05
    scheduler = LinearSchedule(opt, 100)
    same(run(opt, scheduler, 10), [[0.05 * scheduler.factor(n)] for n in range(11)])


def test_by_name_a_schedule_forgets_those_before() -> None:
    opt = optimizer()
    CosineSchedule(opt, 100, warmup=Warmup(5, start=0.1))
    scheduler = get_scheduler("linear", opt, 0, 100)
    assert isinstance(scheduler, Schedule)
    same(run(opt, scheduler, 10), [[base * scheduler.factor(n) for base in BASES] for n in range(11)])


def test_a_resumed_run_may_be_made_longer() -> None:
    opt = optimizer()
    scheduler = LinearSchedule(opt, 100)
    run(opt, scheduler, 50)
    other = optimizer()
    longer = LinearSchedule(other, 200)
    other.load_state_dict(opt.state_dict())
    longer.load_state_dict(scheduler.state_dict())
    same(run(other, longer, 10)[1:], [[base * longer.factor(n) for base in BASES] for n in range(51, 61)])


# --- Tensors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_tensor_learning_rates_are_filled_in_place(name: str, shape: tuple[int, ...]) -> None:
    bases = tuple(torch.full(shape, base, dtype=torch.float64) for base in BASES)
    opt = optimizer(bases)
    scheduler = SCHEDULES[name](opt)
    held = [group["lr"] for group in opt.param_groups]
    values = run(opt, scheduler, 120)
    assert all(group["lr"] is lr for group, lr in zip(opt.param_groups, held))
    last = scheduler.get_last_lr()
    assert not any(a is b for a, b in zip(last, held))
    reference = optimizer()
    assert values == run(reference, SCHEDULES[name](reference), 120)


def test_a_tensor_learning_rate_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading would wait for a GPU. The meta device has no values, so that any reading raises."""
    opt = optimizer(tuple(torch.tensor(base, device="meta") for base in BASES))
    for name, make in SCHEDULES.items():
        scheduler = make(opt)
        for _ in range(120):
            opt._opt_called = True  # type: ignore[attr-defined]  # a step of the optimizer would read values
            scheduler.step()
        assert all(lr.device.type == "meta" for lr in scheduler.get_last_lr()), name  # type: ignore[union-attr]


def test_tensor_betas_cycle_in_place() -> None:
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    opt = torch.optim.Adam([torch.zeros(2, requires_grad=True)], lr=torch.tensor(0.1), betas=betas, capturable=True)
    OneCycleSchedule(opt, 100)
    assert opt.param_groups[0]["betas"][0].item() == pytest.approx(0.95)
    assert opt.param_groups[0]["betas"][1].item() == pytest.approx(0.999)


def test_compiled_reader_of_a_tensor_learning_rate_is_not_recompiled() -> None:
    counter = CompileCounter()
    opt = optimizer((torch.tensor(0.1),))

    @torch.compile(backend=counter)
    def update(p: Tensor) -> Tensor:
        return p - opt.param_groups[0]["lr"]

    scheduler = LinearSchedule(opt, 10, warmup=2)
    for _ in range(10):
        update(torch.zeros(2))
        opt.step(), scheduler.step()
    assert counter.frame_count == 1


# --- The import swap --------------------------------------------------------------------------------------------------


def test_everything_of_torch_is_reachable() -> None:
    ours = torch_gd.lr_scheduler
    for name in [*torch_lr.__all__, *(name for name in dir(torch_lr) if not name.startswith("__"))]:
        assert getattr(ours, name) is getattr(torch_lr, name), name
    assert set(torch_lr.__all__) < set(ours.__all__)
    with pytest.raises(AttributeError, match="nor has torch"):
        ours.NoSuchLR  # noqa: B018


# --- Reprs ------------------------------------------------------------------------------------------------------------


def stepped(scheduler: Any, steps: int, *arguments: Any) -> Any:
    """Return the scheduler after some steps of it and its optimizer."""
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step(*arguments)
    return scheduler


REPRS: list[tuple[Callable[[Optimizer], Any], str]] = [
    (lambda o: ConstantSchedule(o), "ConstantSchedule(SGD): step 0, factor 1"),
    (
        lambda o: stepped(CosineSchedule(o, 100, floor=0.1, warmup=20), 10),
        "CosineSchedule(SGD, total_steps=100, floor=0.1, warmup=20): step 10, factor 0.5",
    ),
    (
        lambda o: LinearSchedule(optimizer=o, total_steps=100, floor=0.0, warmup=Warmup(0.2, start=0.5)),
        "LinearSchedule(SGD, total_steps=100, warmup=Warmup(length=0.2, kind='linear', start=0.5)): step 0, factor 0.5",
    ),
    (
        lambda o: CosineRestartsSchedule(o, 10, 2, peak_decay=0.7),
        "CosineRestartsSchedule(SGD, first_cycle=10, cycle_mult=2, peak_decay=0.7): step 0, factor 1",
    ),
    (
        lambda o: PolynomialSchedule(o, 100, power=2.0),
        "PolynomialSchedule(SGD, total_steps=100, power=2.0): step 0, factor 1",
    ),
    (lambda o: ExponentialSchedule(o, 0.97), "ExponentialSchedule(SGD, gamma=0.97): step 0, factor 1"),
    (lambda o: StepSchedule(o, 15, 0.5), "StepSchedule(SGD, step_size=15, gamma=0.5): step 0, factor 1"),
    (
        lambda o: MultiStepSchedule(o, list(range(1, 501))),
        "MultiStepSchedule(SGD, milestones=[1, 2, 3, 4, 5, 6, ...]): step 0, factor 1",
    ),
    (lambda o: InverseSqrtSchedule(o, 50), "InverseSqrtSchedule(SGD, timescale=50): step 0, factor 1"),
    (
        lambda o: WarmupStableDecaySchedule(o, 100, 0.3, tail="sqrt"),
        "WarmupStableDecaySchedule(SGD, total_steps=100, decay=0.3, tail='sqrt'): step 0, factor 1",
    ),
    (
        lambda o: OneCycleSchedule(o, 100, three_phase=True),
        "OneCycleSchedule(SGD, total_steps=100, three_phase=True): step 0, factor 0.04",
    ),
    (lambda o: Schedule(o, lambda step: 0.5**step), "Schedule(SGD, decay=<lambda>): step 0, factor 1"),
    (
        lambda o: get_scheduler("polynomial", o, 5, 10),
        "Schedule(SGD, decay=polynomial, total_steps=10, warmup=5): step 0, factor 0",
    ),
    (lambda o: GreedyLR(o, patience=5), "GreedyLR(SGD, patience=5)"),
    (lambda o: stepped(GreedyLR(o), 2, 0.25), "GreedyLR(SGD): step 2, best metric 0.25"),
]


@pytest.mark.parametrize(("make", "text"), REPRS, ids=[text.partition("(")[0] for _, text in REPRS])
def test_reprs(make: Callable[[Optimizer], Any], text: str) -> None:
    assert repr(make(optimizer())) == text


def test_the_repr_of_a_schedule_of_ones_own() -> None:
    class Halving(Schedule):
        def __init__(self, optimizer: Optimizer, every: int = 10) -> None:
            super().__init__(optimizer, lambda step: 0.5 ** (step // every))

    class Quick(Halving):
        pass

    assert repr(Halving(optimizer(), every=3)) == "Halving(SGD, every=3): step 0, factor 1"
    assert repr(Quick(optimizer())) == "Quick(SGD): step 0, factor 1"
    assert repr(copy.deepcopy(Quick(optimizer(), 2))) == "Quick(SGD, every=2): step 0, factor 1"


def test_a_repr_never_reads_a_tensor_learning_rate() -> None:
    opt = optimizer(tuple(torch.tensor(base, device="meta") for base in BASES))
    assert repr(CosineSchedule(opt, 100)) == "CosineSchedule(SGD, total_steps=100): step 0, factor 1"


def test_signatures_are_those_that_are_written() -> None:
    parameters = inspect.signature(CosineSchedule).parameters
    assert list(parameters) == ["optimizer", "total_steps", "floor", "warmup", "last_epoch"]
    assert parameters["floor"].default == 0.0


# --- Names of other libraries -----------------------------------------------------------------------------------------

WRONG_NAMES: list[tuple[Callable[[Optimizer], Any], list[str]]] = [
    (lambda o: CosineSchedule(o, 100, eta_min=1e-5), ["CosineSchedule", "eta_min", "floor=", "not a rate"]),
    (lambda o: LinearSchedule(o, 100, min_lr=1e-5), ["LinearSchedule", "min_lr", "floor="]),
    (lambda o: CosineSchedule(o, T_max=100), ["T_max", "total_steps="]),
    (lambda o: LinearSchedule(o, total_iters=100), ["total_iters", "total_steps="]),
    (lambda o: PolynomialSchedule(o, num_training_steps=100), ["num_training_steps", "total_steps="]),
    (lambda o: OneCycleSchedule(o, num_steps=100), ["num_steps", "total_steps="]),
    (lambda o: ConstantSchedule(o, warmup_steps=5), ["warmup_steps", "warmup="]),
    (lambda o: InverseSqrtSchedule(o, num_warmup_steps=5), ["num_warmup_steps", "warmup="]),
    (lambda o: StepSchedule(o, 5, start_factor=0.1), ["start_factor", "warmup=Warmup("]),
    (lambda o: CosineRestartsSchedule(o, T_0=5, T_mult=2), ["T_0", "T_mult", "first_cycle=", "cycle_mult="]),
    (lambda o: OneCycleSchedule(o, 100, max_lr=0.1), ["max_lr", "learning rate that the optimizer's groups have"]),
    (lambda o: MultiStepSchedule(o, [5], decay_rate=0.1), ["decay_rate", "gamma="]),
    (lambda o: WarmupStableDecaySchedule(o, 100, num_decay_steps=5), ["num_decay_steps", "decay="]),
    (lambda o: Schedule(o, lr_lambda=lambda step: 1.0), ["lr_lambda", "decay="]),
    (
        lambda o: CosineSchedule(o, num_steps=100, min_lr=0, warmup_steps=5),
        ["num_steps and no min_lr and no warmup_steps", "total_steps=", "floor=", "warmup="],
    ),
    # A schedule without the right argument says which arguments it has.
    (lambda o: ConstantSchedule(o, eta_min=0), ["eta_min", "it takes optimizer, total_steps, warmup, last_epoch"]),
    (lambda o: CosineSchedule(o, 100, colour="red"), ["colour"]),
]


@pytest.mark.parametrize(("make", "words"), WRONG_NAMES, ids=[words[-1] for _, words in WRONG_NAMES])
def test_a_wrong_name_is_answered_with_the_right_one(make: Callable[[Optimizer], Any], words: list[str]) -> None:
    with pytest.raises(TypeError) as error:
        make(optimizer())
    assert [word for word in words if word not in str(error.value)] == []


def test_every_answer_names_an_argument_that_a_schedule_has() -> None:
    # Other tests make subclasses too.
    schedules = [Schedule, *(kind for kind in Schedule.__subclasses__() if kind.__module__.startswith("torch_gd."))]
    taken = {name for schedule in schedules for name in inspect.signature(schedule).parameters}
    right = {name for schedule in schedules for name, _ in schedule._right_names.values()}
    assert right <= taken
    # A wrong name for one schedule may be the right one for another, but an argument is never refused.
    for schedule in schedules:
        schedule_names = set(inspect.signature(schedule).parameters)
        assert not {right for wrong, (right, _) in schedule._right_names.items() if wrong in schedule_names}


# --- Bad input --------------------------------------------------------------------------------------------------------


REFUSED: list[tuple[str, Callable[[Optimizer], Any], str]] = [
    ("warm-up longer than the run", lambda o: LinearSchedule(o, 100, warmup=101), "warmup: 101 .* longer than the run"),
    ("fraction above 1", lambda o: LinearSchedule(o, 100, warmup=1.5), "fraction of the run"),
    ("steps as a float", lambda o: LinearSchedule(o, 100, warmup=50.0), "steps are an int"),
    ("fraction of no run", lambda o: ConstantSchedule(o, warmup=0.1), "needs total_steps"),
    ("negative warm-up", lambda o: LinearSchedule(o, 100, warmup=-1), "warmup: -1"),
    (
        "a word as warm-up",
        lambda o: LinearSchedule(o, 100, warmup="linear"),
        "warmup: 'linear'; .* a float or a Warmup",
    ),  # type: ignore[arg-type]
    ("negative warm-up and what is legal", lambda o: ConstantSchedule(o, warmup=-1), "a float or a Warmup"),
    ("exponential from 0, in English", lambda o: Warmup(5, "exponential"), "with kind='exponential' the warm-up"),
    ("no steps", lambda o: CosineSchedule(o, 0), "total_steps: 0"),
    ("negative steps", lambda o: CosineSchedule(o, -5), "total_steps: -5"),
    ("half a step", lambda o: CosineSchedule(o, 10.5), "total_steps: 10.5"),  # type: ignore[arg-type]
    ("a negative step", lambda o: CosineSchedule(o, 10).factor(-1), "step: -1"),
    ("a jump to a negative step", lambda o: CosineSchedule(o, 10).step(-1), "step: -1"),
    ("unsorted milestones", lambda o: MultiStepSchedule(o, [30, 10]), "milestones: .30, 10.; they must rise"),
    ("repeated milestones", lambda o: MultiStepSchedule(o, [10, 10]), "milestones"),
    ("negative milestone", lambda o: MultiStepSchedule(o, [-1, 10]), r"milestones\[0\]: -1"),
    ("milestone past the end", lambda o: MultiStepSchedule(o, [95], total_steps=100, warmup=10), "95 is never reached"),
    ("floor above the peak", lambda o: CosineSchedule(o, 10, floor=1.1), "floor: 1.1; .* above the peak"),
    ("negative floor", lambda o: CosineSchedule(o, 10, floor=-0.1), "floor: -0.1"),
    ("NaN floor", lambda o: CosineSchedule(o, 10, floor=math.nan), "floor: nan"),
    ("start above the peak", lambda o: Warmup(5, start=1.5), "start: 1.5"),
    ("exponential from 0", lambda o: Warmup(5, "exponential"), "never leaves 0"),
    ("constant at 0", lambda o: Warmup(5, "constant"), "never leaves 0"),
    ("unknown warm-up", lambda o: Warmup(5, "quadratic"), "kind: 'quadratic'"),
    ("unknown tail", lambda o: WarmupStableDecaySchedule(o, 10, tail="cubic"), "tail: 'cubic'"),
    ("decay longer than the run", lambda o: WarmupStableDecaySchedule(o, 10, 8, warmup=5), "decay: 8"),
    ("gamma above 1", lambda o: ExponentialSchedule(o, 1.1), "gamma: 1.1"),
    ("no power", lambda o: PolynomialSchedule(o, 10, power=0), "power: 0"),
    ("no cycle", lambda o: CosineRestartsSchedule(o, 0), "first_cycle: 0"),
    ("peaks that grow", lambda o: CosineRestartsSchedule(o, 5, peak_decay=1.5), "peak_decay: 1.5"),
    ("no timescale", lambda o: InverseSqrtSchedule(o, 0), "timescale: 0"),
    ("end above the peak", lambda o: OneCycleSchedule(o, 10, div_factor=0.5), "div_factor: 0.5"),
    ("no name", lambda o: get_scheduler("cubic", o, 1, 10), "^cubic is not a valid SchedulerType, .* one of .'linear'"),
    ("no length", lambda o: get_scheduler("linear", o, 1), "^linear requires `num_training_steps`, please provide"),
    ("no warm-up", lambda o: get_scheduler("linear", o, None, 10), "^linear requires `num_warmup_steps`"),
    ("warm-up too long", lambda o: get_scheduler("cosine", o, 11, 10), "num_warmup_steps: 11 .* longer than the run"),
    ("negative warm-up", lambda o: get_scheduler("cosine", o, -1, 10), "num_warmup_steps: -1"),
    ("endless run", lambda o: get_scheduler("cosine", o, 1, math.inf), "num_training_steps: inf; it must be finite"),
    (
        "end above the peak",
        lambda o: get_scheduler("polynomial", o, 1, 10, {"lr_end": 0.2}),
        r"^lr_end \(0.2\) must be smaller than initial lr \(0.1\)",
    ),
    (
        "no floor",
        lambda o: get_scheduler("cosine_with_min_lr", o, 1, 10),
        "^One of min_lr or min_lr_rate should be set",
    ),
    (
        "two floors",
        lambda o: get_scheduler("cosine_with_min_lr", o, 1, 10, {"min_lr": 0, "min_lr_rate": 0}),
        "^Only one of min_lr or min_lr_rate should be set",
    ),
    (
        "stages longer than the run",
        lambda o: get_scheduler("warmup_stable_decay", o, 5, 10, {"num_decay_steps": 6}),
        "num_decay_steps: 6",
    ),
    (
        "no stages",
        lambda o: get_scheduler("warmup_stable_decay", o, 5, None, {"num_decay_steps": 6}),
        "^Either num_training_steps or num_stable_steps must be specified",
    ),
    (
        "no such stage",
        lambda o: get_scheduler("warmup_stable_decay", o, 5, 10, {"num_decay_steps": 5, "decay_type": "sqrt"}),
        "^Unknown decay type: sqrt, expected 'linear', 'cosine' or '1-sqrt'",
    ),
    ("greedy factor", lambda o: GreedyLR(o, factor=1.5), r"^Factor should be < 1\.0\. .*factor: 1.5"),
    ("greedy limits", lambda o: GreedyLR(o, min_lr=[0.1]), "^expected 2 min_lrs, got 1"),
    ("a rate below 0", lambda o: GreedyLR(o, max_lr=-1), "max_lr: -1"),
    ("greedy patience", lambda o: GreedyLR(o, patience=-1), "patience: -1; it must be a whole number, 0 or more"),
    ("greedy threshold", lambda o: GreedyLR(o, threshold=math.nan), "threshold: nan; it must be finite"),
    ("a mode that is not a word", lambda o: GreedyLR(o, mode=o), "mode: SGD; it must be one of min, max"),
    ("an infinite divisor", lambda o: OneCycleSchedule(o, 10, div_factor=math.inf), "div_factor: inf"),
    ("a momentum before the start", lambda o: OneCycleSchedule(o, 10).momentum(-1), "step: -1"),
    (
        "an optimizer's state",
        lambda o: CosineSchedule(o, 10).load_state_dict(o.state_dict()),
        "state_dict: it has 'state', 'param_groups', but no 'last_epoch', 'base_lrs'",
    ),
    (
        "another scheduler's state",
        lambda o: GreedyLR(o).load_state_dict(CosineSchedule(o, 10).state_dict()),
        "it has 'base_lrs', .* but no '_initial_lrs', 'best'",
    ),
    (
        "a state before its first step",
        lambda o: CosineSchedule(o, 10).load_state_dict({"last_epoch": -2, "base_lrs": [0.1, 0.1]}),
        "last_epoch in state_dict: -2",
    ),
    (
        "a state of other groups",
        lambda o: CosineSchedule(o, 10).load_state_dict({"last_epoch": 1, "base_lrs": [0.1]}),
        "1 parameter groups, the optimizer has 2",
    ),
]


@pytest.mark.filterwarnings("ignore:The epoch parameter", "ignore:Detected call of")
@pytest.mark.parametrize(("make", "message"), [pytest.param(m, t, id=i) for i, m, t in REFUSED])
def test_refused(make: Callable[[Optimizer], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(optimizer())


def test_numpy_numbers_do_not_reach_checkpoints() -> None:
    opt = optimizer()
    scheduler = Schedule(opt, lambda step: np.float64(0.5) ** step)
    run(opt, scheduler, 2)
    assert all(type(group["lr"]) is float for group in opt.param_groups)


REFUSED_TYPES: list[tuple[Callable[[Optimizer], Any], str]] = [
    (lambda o: CosineSchedule([torch.zeros(1)], 10), "^list is not an Optimizer: optimizer is "),
    (lambda o: ConstantSchedule(100), "^int is not an Optimizer: optimizer is 100; it is the first argument"),
    (lambda o: GreedyLR("min"), "^str is not an Optimizer: optimizer is 'min'"),
    (
        lambda o: CosineSchedule(torch_gd.SGD, 10),
        r"^type is not an .* the class SGD; pass an instance, SGD\(",
    ),
    (
        lambda o: get_scheduler("linear", torch.nn.Linear(1, 1), 1, 10),
        "is Linear; it comes after the name",
    ),
    (lambda o: get_scheduler(o, "linear", 1, 10), "name is SGD, an optimizer; the name .* comes before"),
    (lambda o: get_scheduler("linear", o, "few", 10), "num_warmup_steps: 'few'; it must be a number"),
    (
        lambda o: get_scheduler("linear", o, torch.ones(2), 10),
        "num_warmup_steps: a tensor of shape .2,. .*; it must be a number",
    ),
    (
        lambda o: get_scheduler("linear", o, 1, 10, {"num_cycles": 3}),
        "scheduler_specific_kwargs: .*'num_cycles'; 'linear' takes last_epoch",
    ),
    (
        lambda o: get_scheduler("warmup_stable_decay", o, 1, 10),
        "missing a required argument: 'num_decay_steps'; .* takes num_decay_steps, num_stable_steps",
    ),
    (lambda o: get_scheduler("cosine", o, 1, 10, [0.5]), r"scheduler_specific_kwargs is \[0.5\], not a dict"),
    (lambda o: get_scheduler("cosine", o, 1, 10, {"num_cycles": None}), "num_cycles: None; it must be a number"),
    (lambda o: get_scheduler("polynomial", o, 1, 10, {"lr_end": "low"}), "lr_end: 'low'; it must be a number"),
    (lambda o: MultiStepSchedule([3], o), "milestones is SGD, not a sequence of steps; it comes after the optimizer"),
    (lambda o: Schedule(o, 0.5), r"decay is 0\.5, not a function"),
    (lambda o: Schedule(o, lambda step: None), r"decay\(0\): None; it must be a number"),
    (lambda o: ExponentialSchedule(0.9, o), "gamma: SGD; it must be a number"),
    (lambda o: LinearSchedule(o, 100, "linear"), "floor: 'linear'; it must be a number"),
    (lambda o: LinearSchedule(o, 100, True), "floor: True; it must be a number"),
    (lambda o: PolynomialSchedule(o, 100, torch.ones(2)), "power: a tensor of shape .2,. .*; it must be a number"),
    (lambda o: OneCycleSchedule(o, 10, div_factor=None), "div_factor: None; it must be a number"),
    (lambda o: OneCycleSchedule(o, 10, base_momentum="high"), "base_momentum: 'high'; it must be a number"),
    (lambda o: GreedyLR(o, factor="half"), "factor: 'half'; it must be a number"),
    (lambda o: GreedyLR(o, min_lr=[0.1, None]), r"min_lr\[1\]: None; it must be a number"),
    (lambda o: GreedyLR(o, patience=None), "patience: None; it must be a whole number, 0 or more"),
    (lambda o: GreedyLR(o, cooldown="long"), "cooldown: 'long'"),
    (lambda o: StepSchedule(o, "ten"), "step_size: 'ten'"),
    (lambda o: CosineSchedule(o, 10, last_epoch="last"), "last_epoch: 'last'"),
    (lambda o: CosineSchedule(o, 10).load_state_dict(None), "state_dict: None; it must be what state_dict"),
    (
        lambda o: CosineSchedule(o, 10).load_state_dict({"last_epoch": None, "base_lrs": [0.1, 0.1]}),
        "last_epoch in state_dict: None",
    ),
    (lambda o: GreedyLR(o).step(None), "metrics: None; it must be a number"),
    (lambda o: CosineSchedule(o, 10).factor("last"), "step: 'last'; it must be a number"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED_TYPES, ids=[message for _, message in REFUSED_TYPES])
def test_refused_types(make: Callable[[Optimizer], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make(optimizer())


def test_swapped_arguments_are_named_in_short() -> None:
    with pytest.raises(TypeError, match="total_steps: SGD; it must be a whole number") as error:
        CosineSchedule(100, optimizer())  # type: ignore[arg-type]
    assert len(str(error.value)) < 120


def test_an_optimizer_without_momentum_has_none_to_cycle() -> None:
    with pytest.raises(ValueError, match="neither momentum nor betas"):
        OneCycleSchedule(torch.optim.Adagrad([torch.zeros(1, requires_grad=True)]), 10)


def test_a_group_that_came_later() -> None:
    opt = optimizer()
    scheduler = CosineSchedule(opt, 10)
    opt.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    opt.step()
    with pytest.raises(RuntimeError, match=r"3 parameter groups .* made for 2"):
        scheduler.step()
