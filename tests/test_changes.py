"""Every change between two steps that a plan must notice: whatever is changed, the next step is torch's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from catalogue import Case
from torch import Tensor

EPS = torch.finfo(torch.float32).eps
CASES = [Case("SGD", {"momentum": 0.9}), Case("Adagrad"), Case("RMSprop", {"centered": True}), Case("AdamW")]
STATES = ["momentum_buffer", "sum", "square_avg", "grad_avg", "exp_avg", "exp_avg_sq"]


def state_of(optimizer: torch.optim.Optimizer, i: int = 0) -> dict[str, Any]:
    """Return the state of the first group's parameter i."""
    return optimizer.state[optimizer.param_groups[0]["params"][i]]


def each_state(change: Callable[[dict[str, Any], str], None]) -> Callable[[torch.optim.Optimizer], None]:
    """Return a function that changes each state of one parameter."""

    def apply(optimizer: torch.optim.Optimizer) -> None:
        state = state_of(optimizer)
        for name in list(state):
            if name in STATES:
                change(state, name)

    return apply


def each_step(change: Callable[[dict[str, Any]], None]) -> Callable[[torch.optim.Optimizer], None]:
    """Return a function that changes one parameter's step counter, if it has one."""

    def apply(optimizer: torch.optim.Optimizer) -> None:
        if "step" in state_of(optimizer):
            change(state_of(optimizer))

    return apply


def first(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the first parameter."""
    p: Tensor = optimizer.param_groups[0]["params"][0]
    return p


def replace_data(tensor: Tensor, data: Tensor) -> None:
    """Give a tensor other memory, while it stays the same object."""
    tensor.data = data


def transposed_copy(tensor: Tensor) -> Tensor:
    """Return a copy whose memory is laid out the other way round."""
    return tensor.detach().t().contiguous().t()


CHANGES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "parameter: other memory": lambda o: replace_data(first(o), first(o).detach().clone()),
    "parameter: other layout": lambda o: replace_data(first(o), transposed_copy(first(o))),
    "parameter: a strided view": lambda o: replace_data(first(o), torch.cat([first(o).detach()] * 2, 1)[:, ::2]),
    "parameter: replaced in its group": lambda o: o.param_groups[0]["params"].__setitem__(
        0, o.param_groups[0]["params"][2].detach().clone().requires_grad_()
    ),
    "parameter: removed from its group": lambda o: o.param_groups[0]["params"].pop(0),
    "parameter: frozen": lambda o: first(o).requires_grad_(False),
    "group: another one": lambda o: o.add_param_group(
        {"params": [torch.ones(2, 3, device=first(o).device)], "lr": 0.5}
    ),
    "group: one less": lambda o: o.param_groups.pop(),
    "group: another object": lambda o: o.param_groups.__setitem__(0, {**o.param_groups[0], "lr": 0.25}),
    "states: other memory": each_state(lambda s, name: replace_data(s[name], s[name].clone())),
    "states: other values in other memory": each_state(lambda s, name: replace_data(s[name], s[name] + 0.5)),
    "states: other layout": each_state(lambda s, name: replace_data(s[name], transposed_copy(s[name]))),
    "states: transposed at the same address": each_state(
        lambda s, name: replace_data(s[name], s[name].reshape(4, 3).t())
    ),
    "states: replaced": each_state(lambda s, name: s.__setitem__(name, s[name] + 0.5)),
    "states: another dict": lambda o: o.state.__setitem__(first(o), {k: v * 0.5 for k, v in state_of(o).items()}),
    "states: gone": lambda o: o.state.pop(first(o), None),
    "states: all gone": lambda o: o.state.clear(),
    "states: from a checkpoint": lambda o: o.load_state_dict(o.state_dict()),
    "step: other memory": each_step(lambda s: replace_data(s["step"], torch.full_like(s["step"], 7.0))),
    "step: another value": each_step(lambda s: s["step"].fill_(7.0)),
    "step: replaced": each_step(lambda s: s.__setitem__("step", torch.tensor(7.0))),
    "step: replaced by float64": each_step(lambda s: s.__setitem__("step", torch.tensor(7.0, dtype=torch.float64))),
}


def train(optimizer: torch.optim.Optimizer, seed: int, layout: str = "") -> None:
    """Take a step with gradients that depend on the seed and each parameter's place only."""
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn(p.shape, generator=generator).to(p.device)
            if layout == "transposed":
                p.grad = transposed_copy(p.grad)
    optimizer.step()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_next_step_is_torchs(case: Case, change: str, device: torch.device) -> None:
    """Changes come after steps that use a plan already made; steps afterwards must be torch's, too."""
    found = []
    for make, more in ((case.ours, {}), (case.reference, {"foreach": False})):
        torch.manual_seed(0)
        params = [torch.randn(3, 4).to(device).requires_grad_() for _ in range(5)]
        optimizer = make([{"params": params[:4]}, {"params": params[4:], "lr": 0.05}], lr=0.1, **more)
        for seed in range(3):
            train(optimizer, seed)
        CHANGES[change](optimizer)
        try:
            for seed in range(3, 6):
                train(optimizer, seed)
        except KeyError:  # in torch 2.11, Adagrad makes states in its constructor only
            if not more:
                raise
            pytest.skip("torch itself needs a state here")
        found.append([p.detach() for group in optimizer.param_groups for p in group["params"]])
    # A few roundings a step, of parameters of up to 4; RMSprop and Adagrad divide small numbers by small ones.
    for p, q in zip(*found, strict=True):
        torch.testing.assert_close(p, q, rtol=6 * 16 * EPS, atol=6 * 16 * EPS)


GRADIENTS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "none": lambda g: None,
    "another object": lambda g: g.clone(),
    "another layout": transposed_copy,
    "a strided view": lambda g: torch.cat([g, g], 1)[:, ::2].copy_(g),
    "negated by a note only": lambda g: torch._neg_view(-g),
    "zeros without memory": lambda g: torch._efficientzerotensor(g.shape, device=g.device),
}


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_gradient_of_another_kind_is_noticed(case: Case, kind: str, device: torch.device) -> None:
    found = []
    for make, more in ((case.ours, {}), (case.reference, {"foreach": False})):
        torch.manual_seed(0)
        params = [torch.randn(3, 4).to(device).requires_grad_() for _ in range(3)]
        optimizer = make(params, lr=0.1, **more)
        for step in range(6):
            for i, p in enumerate(params):
                p.grad = torch.randn(3, 4).to(device)
                if i == 1 and step >= 3:
                    p.grad = GRADIENTS[kind](p.grad)
                    if more and p.grad is not None:  # the reference is given the plain values
                        p.grad = p.grad.clone()
            optimizer.step()
        found.append([p.detach() for p in params])
    for p, q in zip(*found, strict=True):
        torch.testing.assert_close(p, q, rtol=6 * 16 * EPS, atol=6 * 16 * EPS)


def resize(tensor: Tensor, *shape: int) -> None:
    """Resize a tensor in place."""
    with torch.no_grad():
        tensor.resize_(shape)


REFUSED: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "states: resized in place": each_state(lambda s, name: resize(s[name], 2, 4)),
    "states: of another shape": each_state(
        lambda s, name: s.__setitem__(name, torch.zeros(2, 2, device=s[name].device))
    ),
    "parameter: smaller": lambda o: replace_data(first(o), first(o).detach()[:2]),
    "parameter: larger": lambda o: replace_data(first(o), torch.cat([first(o).detach()] * 2)),
}


@pytest.mark.parametrize("change", REFUSED)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_state_of_another_shape_is_named_and_nothing_changes(case: Case, change: str, device: torch.device) -> None:
    """torch raises as well, or in a broadcast goes on with what can only be wrong."""
    params = [torch.randn(3, 4).to(device).requires_grad_() for _ in range(3)]
    optimizer = case.ours(params, lr=0.1)
    for seed in range(3):
        train(optimizer, seed)
    REFUSED[change](optimizer)
    before = [p.detach().clone() for p in params]
    with pytest.raises(RuntimeError, match=r"parameter 0 of group 0, of shape \(\d, 4\), has a state '\w+' of shape"):
        train(optimizer, 3)
    assert all(map(torch.equal, params, before))


UNUSABLE: dict[str, tuple[Callable[[torch.optim.Optimizer], Any], str]] = {
    "on another device": (each_state(lambda s, name: s.__setitem__(name, torch.empty(3, 4, device="meta"))), "on meta"),
    "no tensor": (each_state(lambda s, name: s.__setitem__(name, 0.5)), "no tensor but float"),
    "a counter that is no tensor": (each_step(lambda s: s.__setitem__("step", 5)), "no tensor but int"),
    "a counter that is gone": (each_step(lambda s: s.pop("step")), "no state .step., but others"),
    "an L1 penalty below 0": (lambda o: o.param_groups[0].__setitem__("l1", -1.0), "Invalid l1: -1.0 in group 0"),
    "an L1 penalty in words": (lambda o: o.param_groups[0].__setitem__("l1", "much"), "l1 of group 0 holds 'much'"),
    "a policy in a group": (lambda o: o.param_groups[0].__setitem__("clip", 1.0), "Invalid clip in group 0"),
}


@pytest.mark.parametrize("what", UNUSABLE)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_cannot_be_used_is_named_and_nothing_changes(case: Case, what: str, device: torch.device) -> None:
    """The second parameter has no state yet, and must not get one either."""
    params = [torch.randn(3, 4).to(device).requires_grad_() for _ in range(2)]
    optimizer = case.ours(params, lr=0.1)
    train(optimizer, 0)
    train(optimizer, 1)
    change, message = UNUSABLE[what]
    if "counter" in what and "step" not in state_of(optimizer):
        pytest.skip("this optimizer counts no steps")
    change(optimizer)
    optimizer.state.pop(params[1], None)
    before = [p.detach().clone() for p in params]
    with pytest.raises((RuntimeError, TypeError, ValueError), match=message):
        train(optimizer, 2)
    assert all(map(torch.equal, params, before))
    assert not optimizer.state.get(params[1])
