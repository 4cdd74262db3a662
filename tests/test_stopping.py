"""Stopping criteria: when each stops, how they compose, their reprs, and early stopping beside Lightning's own."""

import inspect
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from libraries import lightning
from torch import nn

from torch_gd.convergence import (
    AllOf,
    AnyOf,
    Criterion,
    Diverged,
    EarlyStopping,
    MaxEpochs,
    MaxSteps,
    NoImprovement,
    TargetLoss,
    TimeBudget,
)

NAN, INF = math.nan, math.inf

# The values that a criterion is given, and at which of them, counted from 1, it first says to stop; None for never.
Row = tuple[Callable[[], Criterion], str, list[float], int | None]
ROWS: list[Row] = [
    (lambda: MaxEpochs(3), "epoch", [1, 2, 3, 4], 3),
    (lambda: MaxEpochs(5), "epoch", [1, 2, 3, 4], None),
    (lambda: MaxSteps(100), "step", [50, 99, 101], 3),
    (lambda: TargetLoss(0.5), "loss", [1, 0.6, 0.5, 0.4], 3),
    (lambda: TargetLoss(0.5), "loss", [NAN, 1], None),
    (lambda: TargetLoss(0.9, "accuracy", "max"), "accuracy", [0.5, 0.95], 2),
    (lambda: Diverged(), "loss", [1, 2, 2.1], 3),
    (lambda: Diverged(), "loss", [1, NAN], 2),
    (lambda: Diverged(), "loss", [INF], 1),
    (lambda: Diverged(), "loss", [-1, 0, 0.1], 3),
    (lambda: Diverged(factor=10), "loss", [1, 9, 9], None),
    (lambda: Diverged(patience=2), "loss", [1, 3, 1, 3, 3], 5),
    (lambda: NoImprovement(), "loss", [5, 4, 4, 4, 4], 5),
    (lambda: NoImprovement(patience=2), "loss", [5, 4, 4, 3, 3, 3], 6),
    (lambda: NoImprovement(patience=2, min_delta=0.5), "loss", [5, 4.6, 4.5, 4], 3),
    (lambda: NoImprovement(patience=2, min_delta=0.5), "loss", [5, 4.4, 3.8, 3.2], None),
    (lambda: NoImprovement(patience=2, min_delta=0.1, relative=True), "loss", [100, 91, 92], 3),
    (lambda: NoImprovement(patience=2, min_delta=0.1, relative=True), "loss", [1e-3, 8.9e-4, 7.9e-4], None),
    (lambda: NoImprovement(patience=2, mode="max"), "loss", [1, 2, 1, 1], 4),
    (lambda: NoImprovement(patience=2), "loss", [1, NAN, NAN], 3),
    (lambda: EarlyStopping("loss"), "loss", [3, 2, 2, 2, 2], 5),
    (lambda: EarlyStopping("loss"), "loss", [3, NAN], 2),
    (lambda: EarlyStopping("loss", check_finite=False), "loss", [3, NAN, 2], None),
    (lambda: EarlyStopping("loss", stopping_threshold=1), "loss", [3, 1, 0.9], 3),
    (lambda: EarlyStopping("loss", divergence_threshold=5), "loss", [3, 5, 5.1], 3),
    (lambda: EarlyStopping("loss", patience=0), "loss", [3, 2, 2], 3),
]


def first_stop(criterion: Criterion, name: str, values: list[float]) -> int | None:
    return next((i for i, value in enumerate(values, start=1) if criterion(**{name: value})), None)


@pytest.mark.parametrize(("make", "name", "values", "expected"), ROWS)
def test_when(make: Callable[[], Criterion], name: str, values: list[float], expected: int | None) -> None:
    criterion = make()
    assert first_stop(criterion, name, values) == expected
    assert bool(criterion.reason) == (expected is not None)
    criterion.reset()
    assert criterion.reason == ""
    assert first_stop(criterion, name, values) == expected


@pytest.mark.parametrize(("make", "name", "values", "expected"), ROWS)
def test_a_checkpoint_changes_nothing(
    make: Callable[[], Criterion], name: str, values: list[float], expected: int | None
) -> None:
    half = len(values) // 2
    first, second = make() | TimeBudget(hours=1), make() | TimeBudget(hours=1)
    stops = [first(**{name: value}) for value in values[:half]]
    second.load_state_dict(first.state_dict())
    stops += [second(**{name: value}) for value in values[half:]]
    assert (stops.index(True) + 1 if True in stops else None) == expected


def test_tensors_are_values() -> None:
    assert TargetLoss(0.5)(loss=torch.tensor(0.25, requires_grad=True))
    assert TargetLoss(torch.tensor(0.5))(loss=0.25)  # type: ignore[arg-type]


def test_what_is_no_mistake_is_taken() -> None:
    assert MaxSteps(1e6)(step=1_000_000)
    assert not (MaxSteps(INF) | MaxEpochs(INF) | NoImprovement(patience=INF))(step=9, epoch=9, loss=1.0)  # type: ignore[arg-type]
    assert TargetLoss(0.5)(loss=0.25, confusion=torch.ones(2, 2), note="not looked at")  # type: ignore[arg-type]


def test_a_decision_that_is_no_text_is_refused() -> None:
    class Own(Criterion):
        def decide(self, values: dict[str, float]) -> str:
            return True  # type: ignore[return-value]

    for stop in (Own(), Own() | MaxEpochs(1)):
        with pytest.raises(TypeError, match=r"Own.decide\(\) returned True, not a str"):
            stop(epoch=1)


def test_time_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stop = TimeBudget(seconds=30, minutes=1)
    now = 89.0
    assert not stop()
    now = 90.0
    assert stop()
    assert stop.reason == "90 seconds are over"
    stop.reset()
    assert not stop()
    now = 120.0
    other = TimeBudget(seconds=30, minutes=1)
    other.load_state_dict(stop.state_dict())  # 30 of 90 used
    now = 179.0
    assert not other()
    now = 180.0
    assert other()


# --- Composition ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), list(itertools.product([False, True], repeat=2)))
def test_truth_table(low: bool, high: bool) -> None:
    a, b = TargetLoss(0.0 if low else -1.0), MaxSteps(1 if high else 2)
    values = {"loss": 0.0, "step": 1.0}
    assert (a | b)(**values) == (low or high)
    assert (a & b)(**values) == (low and high)
    assert ((a & b) | (a | b))(**values) == (low or high)


def test_both_sides_count_what_they_see() -> None:
    patient, impatient = NoImprovement(patience=3), NoImprovement(patience=1)
    stop = impatient | patient
    for _ in range(4):
        stop(loss=1.0)
    assert patient.reason


def test_and_wants_both_at_once() -> None:
    stop = MaxEpochs(4) & NoImprovement(patience=1)
    losses = [3, 3, 2, 1, 1]  # there is no improvement at the second loss, but there is one by the fourth epoch
    assert [stop(epoch=i, loss=loss) for i, loss in enumerate(losses, start=1)] == [False] * 4 + [True]


def test_reasons_are_told() -> None:
    stop = MaxEpochs(2) | TargetLoss(0.5) | Diverged()
    assert isinstance(stop, AnyOf)
    assert stop(epoch=2, loss=0.25)
    assert stop.reason == "2 epochs; loss reached 0.25"
    assert isinstance(MaxEpochs(1) & MaxSteps(1), AllOf)


@pytest.mark.parametrize(
    "wrong", [lambda state: state | {"used": "1h"}, lambda state: state | {"memory": None}, lambda state: {}]
)
def test_a_state_of_which_a_part_is_wrong_changes_nothing(wrong: Callable[[dict[str, Any]], Any]) -> None:
    criteria = NoImprovement(), NoImprovement(patience=9), TimeBudget(hours=1)
    stop = criteria[0] | (criteria[1] & criteria[2])
    stop(loss=3.0)
    state = stop.state_dict()
    stop(loss=2.0)
    last = state["criteria"][1]["criteria"]
    last[1] = wrong(last[1])
    with pytest.raises((TypeError, ValueError), match=r"in state_dict|Invalid state_dict"):
        stop.load_state_dict(state)
    assert [criterion.memory for criterion in criteria] == [{"best": 2.0, "wait_count": 0}] * 2 + [{}]


def test_only_criteria_compose() -> None:
    with pytest.raises(TypeError, match="int"):
        MaxEpochs(1) | 3  # type: ignore[operator]


@pytest.mark.parametrize("criterion", [MaxEpochs(1), MaxSteps(1), TargetLoss(0), Diverged(), NoImprovement()])
def test_a_value_that_is_missing_is_named(criterion: Criterion) -> None:
    with pytest.raises(ValueError, match=r"but was given 'other'; pass \w+=…"):
        criterion(other=1.0)


def test_not_strict() -> None:
    stop = EarlyStopping("val_loss", strict=False, patience=1)
    assert [stop(val_loss=1.0), stop(loss=1.0), stop(val_loss=1.0)] == [False, False, True]
    with pytest.raises(ValueError, match="val_loss"):
        EarlyStopping("val_loss")(loss=1.0)


@pytest.mark.parametrize("word", ["and", "or", "not", "if"])
def test_criteria_are_not_combined_by_words(word: str) -> None:
    """`a or b` would be `a` alone, and `if stop:` always true."""
    first, second = MaxSteps(3), MaxSteps(5)
    uses: dict[str, Callable[[], object]] = {
        "and": lambda: first and second,
        "or": lambda: first or second,
        "not": lambda: not first,
        "if": lambda: 1 if first else 2,
    }
    with pytest.raises(TypeError, match=r"MaxSteps\(3\).*combine criteria with \| and &"):
        uses[word]()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: MaxEpochs(0), "max_epochs"),
        (lambda: MaxSteps(0), "max_steps"),
        (lambda: TimeBudget(), "seconds"),
        (lambda: TimeBudget(NAN), "seconds"),
        (lambda: TimeBudget(minutes=-1, hours=1), "minutes: -1"),
        (lambda: MaxEpochs(NAN), "max_epochs: nan"),
        (lambda: MaxSteps(NAN), "max_steps: nan"),
        (lambda: MaxSteps(1.5), "max_steps: 1.5"),
        (lambda: TargetLoss(NAN), "target: nan"),
        (lambda: Diverged(NAN), "factor: nan"),
        (lambda: Diverged(patience=1.5), "patience: 1.5"),
        (lambda: NoImprovement(min_delta=NAN), "min_delta: nan"),
        (lambda: NoImprovement(min_delta=INF), "min_delta: inf"),
        (lambda: NoImprovement(patience=1.5), "patience: 1.5"),
        (lambda: EarlyStopping("loss", patience=NAN), "patience: nan"),
        (lambda: EarlyStopping("loss", stopping_threshold=NAN), "stopping_threshold: nan"),
        (lambda: EarlyStopping("loss", divergence_threshold=NAN), "divergence_threshold: nan"),
        (lambda: MaxEpochs(3)(epoch=NAN), "epoch: nan"),
        (lambda: MaxSteps(3)(step=NAN), "step: nan"),
        (lambda: MaxEpochs(3).load_state_dict({}), "state_dict: it has nothing, but no 'reason', 'memory'"),
        (lambda: TimeBudget(1).load_state_dict(MaxEpochs(3).state_dict()), "no 'used'"),
        (lambda: (MaxEpochs(1) | MaxSteps(1)).load_state_dict(MaxEpochs(3).state_dict()), "no 'criteria'"),
        (lambda: (MaxEpochs(1) | MaxSteps(1)).load_state_dict(AnyOf(MaxEpochs(3)).state_dict()), "it is of 1 criteria"),
        (lambda: TargetLoss(0, mode="least"), "mode"),
        (lambda: Diverged(factor=1), "factor"),
        (lambda: Diverged(patience=0), "patience"),
        (lambda: NoImprovement(min_delta=-1), "min_delta"),
        (lambda: NoImprovement(patience=-1), "patience"),
        (lambda: EarlyStopping("loss", mode="auto"), "mode"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], Criterion], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStopping(nn.Linear(1, 1)), "monitor is Linear, not the name"),
        (lambda: EarlyStopping(5), "monitor is 5, not the name"),
        (lambda: MaxEpochs("10"), "max_epochs: '10'; it must be a number"),
        (lambda: MaxSteps(True), "max_steps: True; it must be a number"),
        (lambda: MaxSteps(None), "max_steps: None; it must be a number"),
        (lambda: TimeBudget("1h"), r"seconds: '1h'; it must be a number; pass numbers, as in TimeBudget\(hours=1.5\)"),
        (lambda: TargetLoss("low"), "target: 'low'; it must be a number"),
        (lambda: Diverged("2"), "factor: '2'; it must be a number"),
        (lambda: NoImprovement(min_delta=None), "min_delta: None; it must be a number"),
        (lambda: NoImprovement(patience="3"), "patience: '3'; it must be a number"),
        (lambda: NoImprovement(relative=0.01), "relative is 0.01, neither True nor False"),
        (lambda: EarlyStopping("v", strict="no"), "strict is 'no', neither True nor False"),
        (lambda: EarlyStopping("v", check_finite=None), "check_finite is None, neither True nor False"),
        (lambda: EarlyStopping("v", stopping_threshold="1"), "stopping_threshold: '1'; it must be a number"),
        (lambda: EarlyStopping("v", model=nn.Linear), r"model is the class Linear; pass an instance, Linear\("),
        (lambda: EarlyStopping("val_loss")(val_loss=None), "val_loss: None; it must be a number; pass val_loss=…"),
        (lambda: TargetLoss(0.1)(loss="0.5"), "loss: '0.5'; it must be a number"),
        (lambda: Diverged()(loss=torch.ones(2)), r"loss: a tensor of shape \(2,\) .*; it must be a number"),
        (lambda: MaxEpochs(3)(epoch=None), "epoch: None; it must be a number"),
        (lambda: MaxEpochs(3).load_state_dict(3), "state_dict: 3; it must be what state_dict"),
        (lambda: MaxEpochs(3).load_state_dict({"reason": "", "memory": 3}), "memory in state_dict: 3"),
        (lambda: AnyOf().load_state_dict({"reason": "", "criteria": 3}), "criteria in state_dict: 3"),
        (lambda: NoImprovement(5), "monitor is 5"),
        (lambda: TargetLoss(0.1, 5), "monitor is 5"),
        (lambda: Diverged(2.0, 5), "monitor is 5"),
        (
            lambda: EarlyStopping("v", model=torch.optim.SGD(nn.Linear(1, 1).parameters())),
            "model is SGD, not a torch.nn.Module",
        ),
    ],
)
def test_arguments_of_another_kind_are_named(make: Callable[[], Criterion], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


# --- Reprs and wrong calls --------------------------------------------------------------------------------------------

REPRS: list[tuple[Callable[[], Criterion], str]] = [
    (lambda: MaxEpochs(100), "MaxEpochs(100)"),
    (lambda: MaxSteps(max_steps=100), "MaxSteps(100)"),
    (lambda: TimeBudget(hours=2), "TimeBudget(hours=2)"),
    (lambda: TargetLoss(0.9, "accuracy", "max"), "TargetLoss(0.9, monitor='accuracy', mode='max')"),
    (lambda: Diverged(), "Diverged()"),
    (lambda: NoImprovement(patience=10, monitor="loss"), "NoImprovement(patience=10)"),
    (lambda: EarlyStopping("val_loss"), "EarlyStopping('val_loss')"),
    (lambda: EarlyStopping("val_loss", model=nn.Linear(1, 1)), "EarlyStopping('val_loss', model=Linear)"),
    (lambda: MaxEpochs(100) | EarlyStopping("val_loss"), "MaxEpochs(100) | EarlyStopping('val_loss')"),
    (lambda: MaxEpochs(1) | MaxSteps(2) | Diverged(), "MaxEpochs(1) | MaxSteps(2) | Diverged()"),
    (lambda: MaxEpochs(1) & MaxSteps(2) | Diverged(), "(MaxEpochs(1) & MaxSteps(2)) | Diverged()"),
    (lambda: MaxEpochs(1) & (MaxSteps(2) | Diverged()), "MaxEpochs(1) & (MaxSteps(2) | Diverged())"),
    (lambda: AnyOf(MaxEpochs(1)), "AnyOf(MaxEpochs(1))"),
    (lambda: AllOf(), "AllOf()"),
]


@pytest.mark.parametrize(("make", "text"), REPRS, ids=[text for _, text in REPRS])
def test_reprs(make: Callable[[], Criterion], text: str) -> None:
    criterion = make()
    assert repr(criterion) == text
    if "model" not in text:
        assert repr(eval(text)) == text  # it is what one could type


def test_the_repr_of_a_criterion_of_ones_own() -> None:
    class Never(Criterion):
        def decide(self, values: dict[str, float]) -> str:
            return ""

    class After(Never):
        def __init__(self, count: int, *, loud: bool = False) -> None:
            super().__init__()

    assert repr(Never() | After(3, loud=True)) == "Never() | After(3, loud=True)"


@pytest.mark.parametrize("criterion", [MaxEpochs(1), MaxEpochs(1) | Diverged(), EarlyStopping("val_loss")])
def test_a_value_without_its_name_is_refused(criterion: Criterion) -> None:
    with pytest.raises(TypeError, match="values by name"):
        criterion(3, 0.5)  # type: ignore[arg-type]


def test_the_name_of_keras_is_answered() -> None:
    with pytest.raises(TypeError, match=r"EarlyStopping takes no restore_best_weights: pass model="):
        EarlyStopping("val_loss", restore_best_weights=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="colour"):
        EarlyStopping("val_loss", colour="red")  # type: ignore[call-arg]


# --- Early stopping ---------------------------------------------------------------------------------------------------


def run(stop: Criterion, model: nn.Module, losses: list[float]) -> None:
    for i, loss in enumerate(losses, start=1):
        with torch.no_grad():
            model.weight.fill_(i)
            model.running_mean.fill_(i)
        if stop(val_loss=loss, epoch=i):
            break


@pytest.mark.parametrize(
    ("options", "losses", "restored"),
    [
        ({}, [3, 1, 2, 2, 2, 0], 2),
        ({"patience": 1}, [3, 2, 1, 1], 3),
        ({}, [3, 1, NAN], 2),
        ({"divergence_threshold": 5}, [3, 6], 1),
        ({"stopping_threshold": 1.5}, [3, 1], 2),
        ({"mode": "max", "patience": 1}, [1, 3, 2], 2),
        ({"min_delta": 1, "patience": 2}, [3, 2.5, 2.4], 1),
        ({}, [NAN], 1),  # there is no best
    ],
)
def test_the_best_weights_come_back(options: dict[str, Any], losses: list[float], restored: int) -> None:
    model = nn.BatchNorm1d(2)
    run(EarlyStopping("val_loss", model=model, **options), model, losses)
    assert model.weight.tolist() == [restored] * 2
    assert model.running_mean.tolist() == [restored] * 2


def test_they_come_back_whoever_stops() -> None:
    model = nn.BatchNorm1d(2)
    run(EarlyStopping("val_loss", model=model) | MaxEpochs(3), model, [3, 1, 2])
    assert model.weight.tolist() == [2, 2]


def test_they_stay_away_while_the_run_goes_on() -> None:
    model = nn.BatchNorm1d(2)
    run(EarlyStopping("val_loss", model=model, patience=1) & MaxEpochs(10), model, [3, 1, 2, 2])
    assert model.weight.tolist() == [4, 4]


def test_a_checkpoint_keeps_the_best_weights() -> None:
    model = nn.BatchNorm1d(2)
    first = EarlyStopping("val_loss", model=model)
    run(first, model, [3, 1, 2])
    second = EarlyStopping("val_loss", model=model)
    second.load_state_dict(first.state_dict())
    assert (second.best, second.wait_count) == (1, 1)
    second.restore()
    assert model.weight.tolist() == [2, 2]


# Few distinct values, so that ties and repetitions happen.
losses = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.25, -1.0, 2.0, NAN, INF]), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(
    losses=losses,
    min_delta=st.sampled_from([0.0, 0.25]),
    patience=st.integers(0, 3),
    mode=st.sampled_from(["min", "max"]),
    check_finite=st.booleans(),
    stopping_threshold=st.sampled_from([None, 0.25]),
    divergence_threshold=st.sampled_from([None, 1.25]),
)
def test_decisions_are_lightnings(losses: list[float], **options: Any) -> None:
    theirs = lightning().callbacks.EarlyStopping("val_loss", **options)
    ours = EarlyStopping("val_loss", **options)
    for loss in losses:
        stop, _ = theirs._evaluate_stopping_criteria(torch.tensor(loss))
        assert ours(val_loss=loss) == stop
        if stop:
            break


def test_names_and_defaults_are_lightnings() -> None:
    theirs = inspect.signature(lightning().callbacks.EarlyStopping).parameters
    ours = inspect.signature(EarlyStopping).parameters
    added, left_out = {"relative", "model"}, {"verbose", "check_on_train_epoch_end", "log_rank_zero_only"}
    assert set(ours) - added == set(theirs) - left_out
    assert all(ours[name].default == theirs[name].default for name in set(ours) - added)
