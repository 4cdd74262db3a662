"""Steps of a sharded model that must raise, and what of its autograd and plans must hold."""

import weakref
from collections.abc import Callable
from functools import partial
from operator import is_
from typing import Any

import pytest
import torch
from sharded import Spread, fsdp, full, tp, training
from sharded_training import on_its_way, replicated
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate

import torch_gd
from torch_gd.optimizers import FusedOptimizer

Case = Callable[[], Any]


def refused(change: Callable[[dict[str, Any], FusedOptimizer], Any], message: str) -> None:
    """A step raises an error of that text on every rank, and has changed nothing."""
    model = fsdp()
    optimizer = training("AdamW")(model)
    replicated(model.params["down.weight"])  # which would be placed first
    change(model.params, optimizer)
    tensors = [*model.params.values(), *(s for state in optimizer.state.values() for s in state.values())]
    before = list(map(full, tensors))
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert "raises" in str(torch_gd.explain(optimizer))
    assert all(map(torch.equal, before, list(map(full, tensors))))


def mixed(params: dict[str, Any], optimizer: FusedOptimizer) -> None:
    whole = torch.nn.Parameter(params["head.bias"].full_tensor().detach())
    whole.grad = DTensor.from_local(torch.ones_like(whole), params["head.bias"].device_mesh, [Replicate()])
    optimizer.add_param_group({"params": [whole]})


def elsewhere(params: dict[str, Any], optimizer: FusedOptimizer) -> None:
    p, mesh = params["head.bias"], init_device_mesh("cpu", (2,), mesh_dim_names=("other",))
    p.grad = DTensor.from_local(torch.ones_like(p.full_tensor()), mesh, [Replicate()])


def whole_state(params: dict[str, Any], optimizer: FusedOptimizer) -> None:
    state = optimizer.state[params["tail.bias"]]
    state["exp_avg"] = state["exp_avg"].full_tensor()


def other_state(params: dict[str, Any], optimizer: FusedOptimizer) -> None:
    optimizer.state[params["up.bias"]]["exp_avg"] = optimizer.state[params["up.weight"]]["exp_avg"]


def failures() -> dict[str, Case]:
    """Return cases in which a step must raise."""
    rows: dict[str, tuple[Callable[[dict[str, Any], FusedOptimizer], Any], str]] = {
        "a plain parameter with a DTensor for gradient": (mixed, "parameter 0 of group 2, .* mixed torch.Tensor and"),
        "a gradient on another mesh": (elsewhere, "parameter 6 of group 1.* gradient on .* must be on one mesh"),
        "a whole tensor for state": (whole_state, r"parameter 4 of group 1, of shape \(5,\), here .* a whole tensor"),
        "a state of another shape": (other_state, r"of shape \(8,\), here of shape \(4,\), has a state 'exp_avg' of"),
    }
    return {f"refused: {what}": partial(refused, *row) for what, row in rows.items()}


def left_to_torch() -> None:
    """`differentiable=True` keeps the DTensors, which torch steps."""
    model = fsdp()
    model.loss(0).backward()
    batches = torch_gd.explain(model.optimizer("AdamW", differentiable=True)).batches
    elements = sum(p.numel() for p in model.params.values())
    assert sum(batch.elements for batch in batches) == elements
    assert {batch.reason for batch in batches} == {"differentiable=True was given"}


def explained() -> None:
    """`explain` tells of shards, before the first backward pass too, and of gradients that must travel first."""
    model = tp()
    optimizer = model.optimizer("AdamW")
    first = torch_gd.explain(optimizer).batches[0]
    assert "this rank's shards of DTensors; gradients assumed like" in first.reason
    assert first.elements == 6 + 6 + 8 * 6 // 2
    model.loss(0).backward()
    reason = torch_gd.explain(optimizer).batches[0].reason
    assert "this rank's shards of DTensors; gradients redistributed first: 2" in reason


def autograd_is_told(spread: Callable[[], Spread]) -> None:
    """A backward pass through what a step has changed raises, as it does for plain tensors."""
    model = spread()
    model.loss(0).backward()
    versions = [p._version for p in model.params.values()]
    model.optimizer("SGD").step()
    model.optimizer("RMSprop", centered=True).step()
    assert all(p._version >= before + 2 for p, before in zip(model.params.values(), versions))


def all_is_kept(spread: Callable[[], Spread]) -> None:
    """Steps that are alike share a plan and leave the states the tensors they are; of gradients nothing is held."""
    for name, options in (("AdamW", {}), ("SGD", {"momentum": 0.9, "foreach": True})):
        model = spread()
        optimizer = training(name, **options)(model)
        plan, states = optimizer._engine.plan, [s for state in optimizer.state.values() for s in state.values()]
        optimizer.zero_grad()
        model.loss(0).backward()
        p = model.params["norm.weight"]
        if spread is tp:
            on_its_way(p)
        grad = weakref.ref(p.grad)
        optimizer.step()
        assert optimizer._engine.plan is plan is not None
        assert all(map(is_, states, [s for state in optimizer.state.values() for s in state.values()]))
        p.grad = None
        assert grad() is None


def in_one_memory() -> None:
    """Shards that share memory are updated one after the other."""
    mesh, data = fsdp().params["up.weight"].device_mesh, torch.ones(3)
    params = [torch.nn.Parameter(DTensor.from_local(data, mesh, [Replicate()])) for _ in range(2)]
    for p in params:
        p.grad = DTensor.from_local(torch.ones(3), mesh, [Replicate()])
    optimizer = torch_gd.SGD(params, lr=0.25)
    assert "may share memory with another" in str(torch_gd.explain(optimizer))
    optimizer.step()
    assert torch.equal(data, torch.full((3,), 0.5))


def invariants() -> dict[str, Case]:
    """Return cases of what holds at every step."""
    return {
        "left to torch": left_to_torch,
        "explained": explained,
        "shards in one memory": in_one_memory,
        **{
            f"{case.__name__.replace('_', ' ')}: {spread.__name__}": partial(case, spread)
            for case in (autograd_is_told, all_is_kept)
            for spread in (fsdp, tp)
        },
    }
