"""Options changed in mid-training take effect at the next step, as in torch, although the step is planned ahead."""

import copy
import inspect
import itertools
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy
import pytest
import torch
from catalogue import torch_class
from test_state import assert_same, fresh, train

import torch_gd
from torch_gd._engine.groups import GroupSnapshot


def apply(optimizer: torch.optim.Optimizer, changes: dict[str, Any]) -> None:
    """Change options, in place where possible, as `OneCycleSchedule` does."""
    for group in optimizer.param_groups:
        for name, value in changes.items():
            if isinstance(group[name], torch.Tensor):
                group[name].fill_(value)
            elif isinstance(group[name], list):
                group[name][:] = value
            else:
                group[name] = value


CHANGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("SGD", {}, {"lr": 0.5}),
    ("SGD", {}, {"lr": torch.tensor(0.5, dtype=torch.float64)}),
    ("SGD", {"lr": torch.tensor(0.5, dtype=torch.float64)}, {"lr": 0.1}),
    ("SGD", {"momentum": torch.tensor(0.0, dtype=torch.float64)}, {"momentum": 0.9}),
    ("SGD", {"momentum": torch.tensor(0.9, dtype=torch.float64)}, {"momentum": 0.0}),
    ("SGD", {}, {"momentum": 0.9}),
    ("SGD", {}, {"weight_decay": 0.1}),
    ("SGD", {}, {"maximize": True}),
    ("SGD", {"momentum": 0.9}, {"momentum": 0}),
    ("SGD", {"momentum": 0.9}, {"momentum": 0.5, "dampening": 0.2}),
    ("SGD", {"momentum": 0.9}, {"nesterov": True}),
    ("SGD", {"momentum": 0.9}, {"foreach": False}),
    ("SGD", {"momentum": 0.9, "foreach": True}, {"foreach": None}),
    ("Adagrad", {}, {"lr_decay": 0.1, "eps": 1e-3}),
    ("RMSprop", {"centered": True}, {"centered": False}),
    ("RMSprop", {"momentum": 0.9}, {"momentum": 0}),
    ("RMSprop", {}, {"alpha": 0.5, "eps": 1e-3}),
    ("Adam", {}, {"betas": (0.5, 0.9)}),
    ("Adam", {"betas": [0.9, 0.999]}, {"betas": [0.5, 0.9]}),
    ("Adam", {"amsgrad": True}, {"amsgrad": False}),
    ("Adam", {"weight_decay": 0.1}, {"decoupled_weight_decay": True}),
    ("AdamW", {}, {"weight_decay": 0.5, "lr": 0.1}),
    ("NAdam", {}, {"momentum_decay": 0.5, "betas": (0.5, 0.9)}),
    ("RAdam", {"weight_decay": 0.1}, {"decoupled_weight_decay": True}),
    ("SGDW", {"weight_decay": 0.1}, {"momentum": 0.9}),
]


@pytest.mark.parametrize(("name", "start", "changes"), CHANGES, ids=str)
def test_changes_take_effect_as_in_torch(
    name: str, start: dict[str, Any], changes: dict[str, Any], device: torch.device
) -> None:
    ours, theirs = fresh(device), fresh(device)
    optimizer = getattr(torch_gd, name)(ours, **copy.deepcopy(start))
    reference = torch_class(name)(theirs, **{**copy.deepcopy(start), "foreach": False})
    for params, one in ((ours, optimizer), (theirs, reference)):
        train(one, params, range(6))
        apply(one, changes if one is optimizer else {**changes, "foreach": False})
        train(one, params, range(6, 10))
    assert_same(ours, theirs, 10)
    assert [list(state) for state in optimizer.state.values()] == [list(state) for state in reference.state.values()]


@pytest.mark.parametrize(
    ("name", "start", "changes", "same"),
    [
        ("SGD", {}, {}, True),
        ("SGD", {}, {"lr": 0.5}, True),
        ("SGD", {}, {"lr": torch.tensor(0.5)}, False),
        ("SGD", {}, {"weight_decay": 0.5, "maximize": True}, True),
        ("SGD", {}, {"weight_decay": torch.tensor(0.5)}, False),
        ("SGD", {}, {"momentum": 0.9}, False),
        ("SGD", {}, {"foreach": True}, False),
        ("SGD", {}, {"nesterov": False}, True),
        ("RMSprop", {}, {"fused": True}, False),
        ("Adam", {}, {"betas": (0.5, 0.9)}, True),
        ("Adam", {"amsgrad": True}, {"amsgrad": False}, False),
    ],
    ids=str,
)
def test_a_snapshot_notices_changes_that_need_a_new_plan(
    name: str, start: dict[str, Any], changes: dict[str, Any], same: bool
) -> None:
    optimizer = getattr(torch_gd, name)([torch.zeros(2, requires_grad=True)], **start)
    snapshot = GroupSnapshot(optimizer._engine.algorithm, 0, optimizer.param_groups[0])
    assert snapshot.still_describes(optimizer.param_groups[0])
    before = dict(optimizer.param_groups[0])
    optimizer.param_groups[0].update(changes)
    assert snapshot.still_describes(optimizer.param_groups[0]) is same
    optimizer.param_groups[0] = before
    assert snapshot.still_describes(before)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("SGD", {"lr": "fast"}),
        ("SGD", {"lr": "0.1"}),
        ("SGD", {"weight_decay": Decimal("0.1")}),
        ("NAG", {"momentum": None}),
        ("Adagrad", {"lr_decay": "slow"}),
        ("RMSprop", {"alpha": []}),
        ("Adam", {"betas": (None, 0.9)}),
        ("AdamW", {"lr": torch, "eps": 1e-3}),
        ("AdamW", {"eps": numpy.array(1e-3)}),
    ],
    ids=str,
)
def test_an_option_that_is_no_number_is_named_before_any_update(
    name: str, changes: dict[str, Any], device: torch.device
) -> None:
    params = fresh(device)
    optimizer = getattr(torch_gd, name)([{"params": params[:1]}, {"params": params[1:]}])
    train(optimizer, params, range(4))
    before = [p.detach().clone() for p in params]
    steps = [float(state["step"]) for state in optimizer.state.values() if "step" in state]
    optimizer.param_groups[1].update(changes)
    with pytest.raises(TypeError, match=f"{next(iter(changes))} of group 1 holds"):
        train(optimizer, params, range(4, 5))
    assert all(map(torch.equal, params, before))
    assert [float(state["step"]) for state in optimizer.state.values() if "step" in state] == steps


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("SGD", {"momentum": [0.9], "dampening": 0.1}, r"momentum of group 0 holds \[0.9\]"),
        ("SGD", {"lr": (0.1, 0.2)}, r"group 0 holds lr=\(0.1, 0.2\), .* to unpack"),
        ("Adam", {"betas": (0.9,)}, r"betas of group 0 holds \(0.9,\)"),
        ("AdamW", {"betas": (0.9, 0.99, 0.999)}, r"group 0 holds .*betas=\(0.9, 0.99, 0.999\), .* to unpack"),
        ("RMSprop", {"l1": True}, "Invalid l1: True in group 0"),
        ("RMSprop", {"l1": math.inf}, "Invalid l1: inf in group 0"),
        ("Adagrad", {"lr": torch.ones(2)}, "Tensor lr must be 1-element, but group 0 has a tensor of shape"),
    ],
    ids=str,
)
def test_a_groups_wrong_option_is_named(name: str, changes: dict[str, Any], message: str, device: torch.device) -> None:
    params = fresh(device)
    optimizer = getattr(torch_gd, name)(params)
    optimizer.param_groups[0].update(changes)
    before = [p.detach().clone() for p in params]
    with pytest.raises((TypeError, ValueError), match=message):
        train(optimizer, params, range(1))
    assert all(map(torch.equal, params, before))


NUMBERS = "lr momentum dampening weight_decay lr_decay initial_accumulator_value eps alpha betas rho momentum_decay"
VALUES: list[Any] = [
    *(None, "a", "0.1", [0.1], [], (0.1,), {}, 1j, abs, torch.nn.Linear, b"1", object()),
    *(-0.5, -math.inf, math.inf, 0, 1.0, True, Fraction(1, 10), Decimal("0.1")),
    *(numpy.float32(0.1), numpy.float64(0.1), numpy.array(0.1), numpy.array([0.1, 0.2]), numpy.float64(-1)),
    *(torch.tensor(value) for value in (0.1, -0.5, [0.1], [0.1, 0.2], 1j)),
    *((0.9, 0.99), [0.9, 0.99], (1.0, 0.9), (0.9, -0.1), ("a", 0.9), (0, 0.9), (None, None), (0.9, 0.9, 0.9)),
    *((torch.tensor(0.9), 0.99), (torch.tensor([0.9]), torch.tensor(0.99)), (torch.tensor([0.9, 0.9]),) * 2),
]
OF_TORCHS_OWN = ("Invalid", "Tensor", "betas", "Nesterov")


@pytest.mark.parametrize(
    "name", ["SGD", "NAG", "Adagrad", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam", "RAdam"]
)
def test_a_constructor_takes_what_torchs_takes_and_names_what_it_does_not(name: str) -> None:
    """Errors have torch's type and begin with torch's text; where that is Python's, they name the argument instead."""

    def error_of(cls: Any, **options: Any) -> Exception | None:
        try:
            cls([torch.zeros(2, requires_grad=True)], **options)
        except Exception as error:  # whatever torch raises
            return error
        return None

    nesterov = {"nesterov": True, "momentum": 0.9} if name == "NAG" else {}
    cls, theirs = getattr(torch_gd, name), torch_class(name)
    options = [option for option in NUMBERS.split() if option in inspect.signature(cls).parameters]
    for option, value in itertools.product(options, VALUES):
        found, expected = error_of(cls, **{option: value}), error_of(theirs, **{**nesterov, option: value})
        if option == "dampening" or (
            option == "betas" and isinstance(value, (str, bytes, tuple)) and len(value) in (1, 3)
        ):
            continue  # torch's constructor does not look, and its step fails; or its error says less
        assert (found is None) == (expected is None), (option, value, found, expected)
        if expected is None:
            continue
        kind = next((k for k in (TypeError, RuntimeError) if isinstance(expected, k)), ValueError)
        assert type(found) is kind, (option, value, found, expected)
        if str(expected).startswith(OF_TORCHS_OWN):
            assert str(found).startswith(str(expected)), (option, value, found)
            assert len(str(found)) > len(str(expected))
        else:
            label = {"lr": "learning rate", "eps": "epsilon value", "betas": "beta"}.get(option, f"{option} value")
            assert str(found).startswith(f"Invalid {label}"), (option, value, found)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"lr": math.nan}, ValueError, "Invalid learning rate: nan; lr must be"),
        ({"momentum": math.nan}, ValueError, "Invalid momentum value: nan; momentum must be"),
        ({"dampening": "0.1"}, TypeError, "Invalid dampening value: '0.1'; dampening must be"),
        ({"l1": True}, TypeError, "Invalid l1: True"),
        ({"l1": "a"}, TypeError, "Invalid l1: 'a'"),
        ({"l1": math.inf}, ValueError, "Invalid l1: inf"),
        ({"l1": math.nan}, ValueError, "Invalid l1: nan"),
        ({"max_norm": 1.0}, TypeError, r"SGD takes no max_norm: clip=torch_gd.ClipByGlobalNorm\(1.0\)"),
        ({"grad_clip": 1.0}, TypeError, r"SGD takes no grad_clip: clip=torch_gd.ClipByGlobalNorm\(1.0\)"),
        ({"clip_value": 1.0}, TypeError, r"SGD takes no clip_value: clip=torch_gd.ClipByValue\(0.5\)"),
        ({"learning_rate": 1.0}, TypeError, "SGD takes no learning_rate: write lr="),
        ({"beta1": 1.0}, TypeError, "SGD takes no beta1: it takes params, lr, momentum,"),
        ({"unheard_of": 1.0}, TypeError, r"SGD.__init__\(\) got an unexpected keyword argument 'unheard_of'"),
    ],
    ids=str,
)
def test_mistakes_that_torch_does_not_see_or_explain(options: dict[str, Any], kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        torch_gd.SGD([torch.zeros(2, requires_grad=True)], **options)


@pytest.mark.parametrize(("name", "other", "right"), [("RMSprop", "rho", "alpha"), ("Adadelta", "alpha", "rho")])
def test_each_average_has_its_paper_s_letter(name: str, other: str, right: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} takes no {other}: write {right}=$"):
        getattr(torch_gd, name)([torch.zeros(2, requires_grad=True)], **{other: 0.9})


@pytest.mark.parametrize("betas", [(0.9,), [], (0.9, 0.99, 0.999), 0.9, None, {0.9, 0.99}])
def test_betas_that_are_no_pair_are_named(betas: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"Invalid betas: .*; betas must be two numbers in \[0, 1\)"):
        torch_gd.AdamW([torch.zeros(2, requires_grad=True)], betas=betas)


def test_unknown_keys_of_a_group_are_welcome() -> None:
    group = {"params": [torch.zeros(2, requires_grad=True)], "lr_scale": 0.5, "name": "backbone"}
    assert torch_gd.AdamW([group]).param_groups[0]["lr_scale"] == 0.5


def test_an_element_of_betas_that_is_no_number_is_named(device: torch.device) -> None:
    params = fresh(device)
    optimizer = torch_gd.Adam(params)
    betas: list[float | None] = [0.9, 0.999]
    optimizer.param_groups[0]["betas"] = betas
    train(optimizer, params, range(4))
    betas[1] = None
    with pytest.raises(TypeError, match="betas of group 0 holds None"):
        train(optimizer, params, range(4, 5))
    assert all(float(state["step"]) == (1 if p is params[1] else 4) for p, state in optimizer.state.items())


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_options_of_a_group_without_gradients_may_be_anything(name: str, device: torch.device) -> None:
    """As in torch, options that no update needs are not read."""
    ours, theirs = fresh(device), fresh(device)
    for params, one in ((ours, getattr(torch_gd, name)), (theirs, torch_class(name))):
        optimizer = one([{"params": params[0]}, {"params": params[2], "lr": 0.1}])
        optimizer.param_groups[1]["lr"] = None
        train(optimizer, params[:1], range(3))
        optimizer.param_groups[1]["lr"] = "auto"
        train(optimizer, params[:1], range(3, 6))
    assert_same(ours, theirs, 6)
