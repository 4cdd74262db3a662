"""Monitors, and copies of optimizers, where ranks share a model; `sharded_decisions.py` has what they decide."""

import copy
import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from sharded import Before, Spread, alone, ddp, fsdp, fsdp_tp, full, hsdp, partly, tp
from sharded_decisions import CLOSE, Case, decisions, fsdp_once, lone_decisions, of_all_ranks
from sharded_training import at_step, partial_sums
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, distribute_tensor

import torch_gd
from torch_gd.convergence import Monitor, StepStatistics
from torch_gd.optimizers import FusedOptimizer

STEPS = 3


def kill_rows(step: int, model: Spread, optimizer: FusedOptimizer) -> None:
    """Have no gradient reach some rows of a weight, whose shards are uneven, and nothing reach a bias."""
    p = model.params["tail.weight"]
    grad = full(p.grad)
    grad[[0, 4]] = 0
    if isinstance(p, DTensor):
        grad = distribute_tensor(grad, p.device_mesh, p.grad.placements, src_data_rank=None)
    p.grad = grad
    model.params["down.bias"].grad = None


def monitored(model: Spread, before: Before) -> tuple[Monitor, list[StepStatistics], list[int]]:
    """Train with a monitor; return it, its records, and the sizes of its all-reduces."""
    optimizer = model.optimizer("AdamW")
    monitor = Monitor(optimizer, model.model, every=1)
    sizes: list[int] = []
    for step in range(STEPS):
        optimizer.zero_grad()
        model.loss(step).backward()
        before(step, model, optimizer)
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduce:
            optimizer.step()
        sizes += [call.args[0].numel() for call in reduce.call_args_list]
    return monitor, monitor.statistics, sizes


def watches(spread: Callable[[], Spread], reductions: int, before: Before = kill_rows) -> None:
    """The statistics are those of one process, to the bit the same on every rank, at few all-reduces a step."""
    monitor, records, sizes = monitored(spread(), before)
    _, expected, _ = monitored(alone(), before)
    ours = [[dict(r.grad_norms), dict(r.weight_norms), dict(r.update_norms)] for r in records]
    everywhere = of_all_ranks((ours, [{n: d.tolist() for n, d in r.dead_units.items()} for r in records]))
    assert all(found == everywhere[0] for found in everywhere)
    assert len(sizes) == STEPS * reductions
    for record, whole in zip(records, expected, strict=True):
        for kind in ("grad_norms", "weight_norms", "update_norms"):
            found, right = _named(getattr(record, kind)), getattr(whole, kind)
            assert found.keys() == right.keys(), kind
            for name, norm in right.items():
                assert math.isclose(found[name], norm, rel_tol=CLOSE, abs_tol=CLOSE), (kind, name, found[name], norm)
        dead = _named(record.dead_units)
        assert dead.keys() == whole.dead_units.keys()
        assert all(torch.equal(dead[name], units) for name, units in whole.dead_units.items())
    if before is kill_rows:
        assert _named(records[0].dead_units)["tail.weight"].tolist() == [True, False, False, False, True]
        assert "40% of the units of" in monitor.report()


def _named(values: Any) -> dict[str, Any]:
    return {name.removeprefix("module."): value for name, value in values.items()}


def missing_on_one_rank() -> None:
    """A gradient that one rank lacks costs nobody the others' answers."""

    def before(step: int, model: Spread, optimizer: FusedOptimizer) -> None:
        if dist.get_rank() == 0:
            model.params["up.weight"].grad = None

    _, records, sizes = monitored(tp(), before)
    _, expected, _ = monitored(alone(), lambda step, model, optimizer: None)
    there, sizes_of_all = of_all_ranks("up.weight" in records[0].grad_norms), of_all_ranks(sizes)
    for name in ("down.weight", "down.bias", "norm.weight"):
        assert math.isclose(records[0].grad_norms[name], expected[0].grad_norms[name], rel_tol=CLOSE)
    assert there == [False, True]
    assert sizes_of_all == [sizes] * 2


def read_by_one_rank() -> None:
    """What was recorded is read without the others, also after a forward pass that has left whole parameters."""
    model = fsdp_once()
    optimizer = model.optimizer("SGD")
    with torch.no_grad():
        model.loss(0)  # as a sanity check before training does
    assert not any(isinstance(p, DTensor) for p in model.params.values())
    monitor = Monitor(optimizer, model.model, every=1)
    for step in range(STEPS):
        optimizer.zero_grad()
        model.loss(step).backward()
        optimizer.step()
        loss = DTensor.from_local(torch.ones(()), init_device_mesh("cpu", (2,)), [Partial()])
        monitor.train_loss(loss)
    with torch.no_grad():
        model.loss(0)
    with (
        mock.patch.object(dist, "all_reduce", side_effect=AssertionError("it communicates")),
        mock.patch.object(dist, "all_gather_object", side_effect=AssertionError("it communicates")),
    ):
        names, report, scalars = list(monitor.statistics[0].weight_norms), monitor.report(), monitor.scalars()
        monitor.verdicts()
    assert names == [name for name, _ in alone().model.named_parameters()]
    assert scalars["loss/train"] == 2.0
    assert "gradient norm" in report


# --- Copies -----------------------------------------------------------------------------------------------------------


def pickled(optimizer: FusedOptimizer) -> FusedOptimizer:
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def copied(spread: Callable[[], Spread], how: Callable[[FusedOptimizer], FusedOptimizer]) -> None:
    """A copy made between backward pass and step goes on as the original does, and apart from it."""
    model = spread()
    optimizer = model.optimizer("AdamW", clip=torch_gd.ClipByValue(1.0))
    for step in range(2):
        optimizer.zero_grad()
        model.loss(step).backward()
        if step == 0:
            optimizer.step()
    before = [full(p) for p in model.params.values()]
    copy_ = how(optimizer)
    params = [p for group in copy_.param_groups for p in group["params"]]
    for p, q in zip(params, model.params.values(), strict=True):
        if p.grad is None:  # torch does not pickle gradients
            p.grad = q.grad.clone()
    copy_.step()
    untouched = [full(p) for p in model.params.values()]
    optimizer.step()
    ours, theirs = [full(p) for p in params], [full(p) for p in model.params.values()]
    assert (type(copy_), copy_.clip) == (torch_gd.AdamW, optimizer.clip)
    assert all(map(torch.equal, before, untouched))
    assert all(map(torch.equal, ours, theirs))
    assert not any(map(torch.equal, before, ours))


def diagnostics(world: int) -> dict[str, Case]:
    """Return the cases of a world of so many ranks."""
    if world == 4:
        return {
            "monitor: hsdp": partial(watches, hsdp, 1),
            "monitor: fsdp_tp": partial(watches, fsdp_tp, 3),
            **decisions(hsdp, fsdp_tp),
        }
    return {
        **{f"monitor: {s.__name__}": partial(watches, s, int(s is not ddp)) for s in (ddp, fsdp, tp, partly)},
        "monitor: gradients placed otherwise": partial(watches, fsdp, 1, at_step(1, partial_sums)),
        "monitor: a gradient missing on one rank": missing_on_one_rank,
        "monitor: read by one rank": read_by_one_rank,
        **decisions(ddp, fsdp, fsdp_once, tp, partly),
        **lone_decisions(),
        **{f"deepcopy: {s.__name__}": partial(copied, s, copy.deepcopy) for s in (ddp, fsdp, tp, partly)},
        "torch.save of an optimizer": partial(copied, fsdp, pickled),
    }
