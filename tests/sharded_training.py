"""Training of a model that is spread over ranks: what may change between steps, and what takes part in one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from sharded import STEPS, Before, Drive, Spread, device, fsdp, tp, training
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, Partial, Replicate

import torch_gd
from torch_gd.optimizers import FusedOptimizer


def replicated(p: DTensor) -> None:
    """Place a gradient as the whole on every rank."""
    p.grad = p.grad.redistribute(placements=[Replicate()] * p.device_mesh.ndim)


def partial_sums(p: DTensor) -> None:
    """Place a gradient as sums that each rank has a part of."""
    share = 1.5 if dist.get_rank() == 0 else -0.5 / (p.device_mesh.size() - 1)  # together 1
    sums = [Partial()] * p.device_mesh.ndim
    p.grad = DTensor.from_local(p.grad.full_tensor() * share, p.device_mesh, sums, run_check=False)


def replace_shard(p: DTensor) -> None:
    """Replace the shard, as FSDP2 does when it loads a model."""
    p._local_tensor = p._local_tensor.clone()


def on_its_way(p: DTensor) -> None:
    """Place a gradient as its parameter, but leave before it has arrived."""
    p.grad = p.grad.redistribute(placements=p.placements, async_op=True)
    assert type(p.grad._local_tensor) is not Tensor


def at_step(when: int, change: Callable[[DTensor], None], *names: str, rank: int | None = None) -> Before:
    """Return what changes DTensors before a step: those named, or all; on one rank, or on all."""

    def before(step: int, model: Spread, optimizer: FusedOptimizer) -> None:
        for name, p in model.params.items():
            if step == when and isinstance(p, DTensor) and name in (names or model.params):
                if rank in (None, dist.get_rank()):
                    change(p)

    return before


def misplaced_states(step: int, model: Spread, optimizer: FusedOptimizer) -> None:
    """Replicate the states of a parameter, which only torch can step then, and take that back a step later."""
    p = model.params["up.weight"]
    if step not in (1, 2) or not isinstance(p, DTensor):
        return
    state, placements = optimizer.state[p], [Replicate()] if step == 1 else p.placements
    for name in state.keys() - {"step"}:
        state[name] = state[name].redistribute(placements=placements)
    assert ("tensor subclass DTensor" in str(torch_gd.explain(optimizer))) == (step == 1)


def changes() -> dict[str, tuple[Drive, Callable[[], Spread]]]:
    """Return training in which a step finds another thing than the one before, and how its model is spread."""
    rows: dict[str, tuple[Before, Callable[[], Spread]]] = {
        "all gradients replicated for a step": (at_step(2, replicated), fsdp),
        "one gradient replicated at the first step": (at_step(0, replicated, "up.weight"), fsdp),
        "all gradients partial sums for a step": (at_step(1, partial_sums), fsdp),
        "shards replaced": (at_step(2, replace_shard), tp),
        # The norm's gradients are partial sums. Had that rank asked for them before it noticed that a later batch has
        # changed, it would ask twice, and the other answer once.
        "one rank alone makes a new plan": (at_step(2, replace_shard, "down.weight", rank=0), tp),
        "a gradient on its way": (at_step(2, on_its_way, "norm.weight"), tp),
        "states placed otherwise for a step": (misplaced_states, fsdp),
        "states loaded": (lambda step, model, optimizer: optimizer.load_state_dict(optimizer.state_dict()), fsdp),
    }
    return {
        f"{what}: {name}": (training(name, before, **options), spread)
        for what, (before, spread) in rows.items()
        for name, options in (("SGD", {"momentum": 0.9}), ("AdamW", {"eps": 1e-3}))
    }


def accumulated(model: Spread) -> FusedOptimizer:
    """Sum the gradients of two batches."""
    return training("AdamW", lambda step, model, optimizer: model.loss(step + STEPS).backward())(model)


def scaled(model: Spread, name: str = "AdamW", **options: Any) -> FusedOptimizer:
    """Have one rank's infinity leave a step out on every rank."""
    optimizer, scaler = model.optimizer(name, **options), torch.amp.GradScaler(device().type, init_scale=8.0)
    for step in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(model.loss(step)).backward()
        grad = model.params["up.weight"].grad
        if step == 2 and (dist.get_rank() == 0 or not isinstance(grad, DTensor)):
            (grad.to_local() if isinstance(grad, DTensor) else grad)[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 4.0
    return optimizer


def closure_and_hooks(model: Spread) -> FusedOptimizer:
    """Step with a closure, between hooks."""
    optimizer, calls = model.optimizer("AdamW"), []
    optimizer.register_step_pre_hook(lambda *args: calls.append("before"))
    optimizer.register_step_post_hook(lambda *args: calls.append("after"))
    for step in range(STEPS):

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = model.loss(step)
            loss.backward()
            return loss

        assert isinstance(optimizer.step(closure), Tensor)
    assert calls == ["before", "after"] * STEPS
    return optimizer


def resumed(name: str, whole: bool, model: Spread) -> FusedOptimizer:
    """Go on with a new optimizer, into which torch.distributed.checkpoint has put the states of the old one."""
    spread = any(isinstance(p, DTensor) for p in model.params.values())
    optimizer, kind = model.optimizer(name), StateDictOptions(full_state_dict=whole and spread)
    for step in range(STEPS):
        optimizer.zero_grad()  # or torch would not make the states that it loads into
        if step == 2:
            states = get_optimizer_state_dict(model.model, optimizer, options=kind)
            optimizer = model.optimizer(name)
            set_optimizer_state_dict(model.model, optimizer, states, options=kind)
        model.loss(step).backward()
        optimizer.step()
    return optimizer


class Halve(torch_gd.ClipByGlobalNorm):
    """A policy of the user's, in place of one that measures. It is given what the user knows: whole tensors."""

    def apply(self, params: Any, grads: Any) -> None:
        for p, g in zip(params, grads):
            assert p.shape == g.shape == p.grad.shape
            g.mul_(0.5)


def options() -> dict[str, Drive]:
    """Return training with what else takes part in a step."""
    return {
        "accumulated gradients": accumulated,
        "GradScaler": scaled,
        "GradScaler, fused": partial(scaled, fused=True),
        "GradScaler and a policy": partial(scaled, clip=torch_gd.ClipByValue(1e-3)),
        "GradScaler and a policy of the user's": partial(scaled, clip=Halve(1.0)),
        "closure and hooks": closure_and_hooks,
        "a policy of the user's": training("SGD", at_step(2, replicated, "up.weight"), clip=Halve(1.0)),
        "clip by value": training("SGD", at_step(2, replicated), clip=torch_gd.ClipByValue(1e-3)),
        "L1": training("SGD", l1=0.01),
        "tensor lr": training("AdamW", lr=torch.tensor(0.05)),
        "foreach=True": training("AdamW", foreach=True),
        "foreach=False": training("NAG", foreach=False),
        **{
            f"a checkpoint, {'whole' if whole else 'in shards'}: {name}": partial(resumed, name, whole)
            for name in ("AdamW", "Adagrad", "RMSprop")
            for whole in (False, True)
        },
    }
