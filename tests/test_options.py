"""Options changed in mid-training take effect at the next step, as in torch, although the step is planned ahead."""

import copy
from decimal import Decimal
from typing import Any

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
