"""Stopping criteria and range tests of a model that ranks share: all of them decide as one."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from sharded import Spread, alone, batch_of, ddp, fsdp, full, new_net, tp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import torch_gd
from torch_gd.callbacks.checks import decide_as_one
from torch_gd.convergence import EarlyStopping, MaxEpochs, TargetLoss, TimeBudget
from torch_gd.optimizers import FusedOptimizer

Case = Callable[[], Any]
CLOSE = 1e-9  # ranks sum in another order: some 100 roundings of 1e-16, which AdamW's division may enlarge 1e5-fold


def fsdp_once() -> Spread:
    """FSDP2 as one unit, all of whose parameters stay whole after a forward pass alone."""
    return Spread(fully_shard(new_net(), mesh=init_device_mesh("cpu", (dist.get_world_size(),))), ddp().mine)


def of_all_ranks(value: Any) -> list[Any]:
    """Return what every rank passed."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


# --- Stopping ---------------------------------------------------------------------------------------------------------

# The mean over the ranks is best at the third epoch; even ranks alone would choose the second, and odd ones the fourth.
EVEN, ODD = (1.0, 0.5, 0.6, 0.9, 0.9, 0.9), (1.0, 0.9, 0.5, 0.4, 0.9, 0.9)


def stops(spread: Callable[[], Spread]) -> None:
    """All ranks keep the weights of one epoch, stop in the same, and bring those weights back."""
    model = spread()
    optimizer = model.optimizer("SGD")
    stop = MaxEpochs(100) | EarlyStopping("val_loss", patience=2, model=model.model)
    weights, stopped = [], 0
    for epoch, value in enumerate(ODD if dist.get_rank() % 2 else EVEN):
        optimizer.zero_grad()
        model.loss(epoch).backward()
        optimizer.step()
        weights.append([full(p) for p in model.params.values()])
        with torch.no_grad():
            model.loss(epoch)  # validation, which leaves whole parameters in FSDP2's modules
        if stop(epoch=epoch + 1, val_loss=torch.tensor(value)):
            stopped = epoch
            break
    kept = {name.removeprefix("module."): value for name, value in model.model.state_dict().items()}
    back = [full(value) for value in kept.values()]
    outcomes = of_all_ranks((stopped, stop.reason))
    assert len(set(outcomes)) == 1, outcomes
    assert stopped == 4
    assert all(map(torch.equal, back, weights[2]))


def clocks_differ() -> None:
    """One rank's clock stops all, which bring the best weights back, and say why."""
    model = fsdp()
    stop = TimeBudget(hours=1 if dist.get_rank() == 0 else 1e-9) | EarlyStopping("val_loss", model=model.model)
    before = [full(p) for p in model.params.values()]
    stopped = stop(val_loss=1.0)
    after = [full(p) for p in model.params.values()]
    assert stopped, "this rank goes on alone"
    assert "seconds are over" in stop.reason
    assert all(map(torch.equal, before, after))


def without_a_model() -> None:
    """`groups` has ranks decide as one without a model too; a value that no rank can use is an error on all."""
    stop = TargetLoss(0.5)
    alone_stopped = TargetLoss(0.5)(loss=float(dist.get_rank()))
    decide_as_one(stop)  # as the callbacks do
    assert stop.groups == (dist.group.WORLD,)
    stopped = stop(loss=float(dist.get_rank()))
    texts = []
    for values in ({"loss": "low" if dist.get_rank() == 0 else 0.1}, {"other": 1.0}):
        try:
            stop(**values)
        except (TypeError, ValueError) as error:
            texts.append(str(error))
    missing_on_one = stop(**({"loss": 0.7} if dist.get_rank() == 0 else {}))
    assert (alone_stopped, stopped, missing_on_one) == (dist.get_rank() == 0, True, False)
    assert "Invalid loss" in texts[0]
    assert "needs 'loss'" in texts[1]


# --- The range test ---------------------------------------------------------------------------------------------------


def sweep(model: Spread, optimizer: FusedOptimizer, **options: Any) -> torch_gd.LRRangeTest:
    """Run a range test of a few steps."""
    loader = [(model.mine(batch_of(step)), 1.0) for step in range(3)]
    options = {"steps": 12, "progress": False, **options}
    return torch_gd.lr_range_test(model.model, optimizer, lambda y, t: (y - t).square().mean(), loader, **options)


def sweeps(spread: Callable[[], Spread], end_lr: float) -> None:
    """The curve is that of one process, and the same everywhere; all is put back, and training goes on as ever."""
    models, results, losses = [spread(), alone()], [], []
    for model in models:
        optimizer = model.optimizer("SGD", momentum=0.9)
        model.loss(0).backward()
        optimizer.step()
        tensors = [*model.model.state_dict(keep_vars=True).values()]
        tensors += [p.grad for p in tensors] + [s for state in optimizer.state.values() for s in state.values()]
        before = [(t, full(t)) for t in tensors]
        with torch.no_grad():
            model.loss(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(sweep(model, optimizer, start_lr=1e-3, end_lr=end_lr, divergence=1.5))
        warned = any("lr_range_test" in str(warning.message) for warning in caught)
        after = [*model.model.state_dict(keep_vars=True).values()]
        after += [p.grad for p in after] + [s for state in optimizer.state.values() for s in state.values()]
        restored = all(a is b for a, b in zip(tensors, after, strict=True))
        restored &= all(torch.equal(value, full(t)) for t, value in before)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(torch.tensor([float(model.loss(1).detach())]))
        assert restored, f"not all was put back: {model}"
        assert warned == (bool(results[-1].doubt) and (model is models[1] or dist.get_rank() == 0))
    if spread is not tp:
        dist.all_reduce(losses[0])
        losses[0] /= dist.get_world_size()
    everywhere = of_all_ranks((results[0].lrs, results[0].losses, results[0].diverged, results[0].suggestion))
    assert all(found == everywhere[0] for found in everywhere)
    assert results[0].diverged == results[1].diverged == (end_lr > 1)
    torch.testing.assert_close(results[0].losses, results[1].losses, rtol=CLOSE, atol=CLOSE)


def grads_in_buckets() -> None:
    """DistributedDataParallel reduces gradients where the saved ones lie; these are put back all the same."""
    inner = alone().model
    model = Spread(nn.parallel.DistributedDataParallel(inner, gradient_as_bucket_view=True), ddp().mine)
    optimizer = model.optimizer("SGD")
    for step in range(2):  # buckets are made anew after the first
        optimizer.zero_grad(set_to_none=False)
        model.loss(step).backward()
    grads = [p.grad for p in model.params.values()]
    before = [full(g) for g in grads]
    sweep(model, optimizer)
    assert all(p.grad is g for p, g in zip(model.params.values(), grads))
    assert all(map(torch.equal, before, grads))


def failing_loss() -> None:
    """A loss function that raises after a forward pass leaves a model that can be trained."""
    model = fsdp()
    optimizer = model.optimizer("SGD")
    params = [(p, full(p)) for p in model.params.values()]

    def raising(y: Tensor, target: Tensor) -> Tensor:
        raise KeyError("a fault of the user's")

    caught = ""
    try:
        torch_gd.lr_range_test(model.model, optimizer, raising, [(model.mine(batch_of(0)), 0)], progress=False)
    except KeyError as error:
        caught = str(error)
    after = list(model.params.values())
    same = all(p is q and torch.equal(value, full(q)) for (p, value), q in zip(params, after, strict=True))
    model.loss(0).backward()
    optimizer.step()
    assert caught
    assert same


def decisions(*spreads: Callable[[], Spread]) -> dict[str, Case]:
    """Return the cases of models that are spread so."""
    return {
        **{f"early stopping: {spread.__name__}": partial(stops, spread) for spread in spreads},
        **{f"range test to {end}: {s.__name__}": partial(sweeps, s, end) for s in spreads for end in (0.01, 100.0)},
    }


def lone_decisions() -> dict[str, Case]:
    """Return cases of two ranks."""
    return {
        "early stopping: clocks differ": clocks_differ,
        "criteria without a model": without_a_model,
        "range test: gradients in buckets": grads_in_buckets,
        "range test: a loss function that raises": failing_loss,
    }
