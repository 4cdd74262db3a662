"""Clipping of a model that is spread over ranks: by the norms of the whole, which one process would find."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sharded import (
    STEPS,
    Net,
    Spread,
    alone,
    batch_of,
    compare,
    fsdp,
    fsdp_tp,
    full,
    hsdp,
    new_net,
    partly,
    tp,
    training,
)
from sharded_training import at_step, partial_sums, replace_shard, replicated, scaled
from test_docs import run_blocks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import torch_gd
from torch_gd import ClipAdaptive, ClipByGlobalNorm
from torch_gd.optimizers import FusedOptimizer

Case = Callable[[], Any]
INF = float("inf")
# The norms of this model's gradients are above 1, and of a unit's gradient above a hundredth of the unit.
POLICIES = [
    ClipByGlobalNorm(0.05),
    ClipByGlobalNorm(0.5, norm_type=1),
    ClipByGlobalNorm(0.05, norm_type=3, skip_nonfinite=True),
    ClipByGlobalNorm(0.01, norm_type=INF),
    ClipAdaptive(0.01),
]


def label(clip: Any) -> str:
    """Return a short name for a policy."""
    if isinstance(clip, ClipByGlobalNorm):
        return f"norm {clip.norm_type:g} to {clip.max_norm:g}"
    return "units" if isinstance(clip, ClipAdaptive) else str(clip)


def clipped(spread: Callable[[], Spread], name: str, **options: Any) -> None:
    """Training with a policy is training in one process, and is not training without one."""
    optimizer = compare(spread(), training(name, **options))
    if isinstance(options["clip"], ClipByGlobalNorm):
        assert optimizer.last_coefficient < 0.1


def policies(*spreads: Callable[[], Spread]) -> dict[str, Case]:
    """Return each policy under each way to spread a model."""
    return {
        f"{spread.__name__}, {label(clip)}": partial(clipped, spread, "AdamW", eps=1e-3, clip=clip, fused=fused)
        for spread in spreads
        for clip, fused in zip(POLICIES, [None, True, None, None, True])
    }


@contextmanager
def all_reduces() -> Iterator[list[Any]]:
    """Record the process groups of the sums that are asked for."""
    asked: list[Any] = []
    inner = dist.all_reduce

    def record(tensor: Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None, **kwargs: Any) -> Any:
        asked.append(group)
        return inner(tensor, op, group, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", record)
        yield asked


def one_sum(clip: torch_gd.ClipPolicy) -> None:
    """A step asks for one sum, however many parameters there are."""
    model = fsdp()
    optimizer = training("AdamW", clip=clip)(model)
    with all_reduces() as asked:
        optimizer.step()
    assert len(asked) == 1


def one_rank_is_not_finite(value: float, norm_type: float) -> None:
    """What one rank finds leaves the step out on every rank."""
    model = fsdp()
    optimizer = training("AdamW", clip=ClipByGlobalNorm(0.05, norm_type, skip_nonfinite=True))(model)
    before = [full(p) for p in model.params.values()]
    if dist.get_rank() == 1:
        model.params["up.weight"].grad.to_local()[0, 0] = value
    optimizer.step()
    after = [full(p) for p in model.params.values()]
    assert all(map(torch.equal, before, after))
    assert optimizer.skipped_steps == 1
    assert torch.isnan(optimizer.last_norm) if value != value else optimizer.last_norm == INF
    assert [float(s["step"]) for s in optimizer.state.values()] == [STEPS] * len(before)


def one_rank_has_no_gradients(clip: torch_gd.ClipPolicy) -> None:
    """A rank without any takes part in the sums: what its shards would have had counts as zeros."""
    model, single = fsdp(), alone()
    # Without weight decay, which a parameter that has no gradient is spared.
    optimizer, reference = (torch_gd.SGD(one.params.values(), lr=0.5, clip=clip) for one in (model, single))
    for one in (model, single):
        one.loss(0).backward()
    for (name, p), q in zip(model.params.items(), single.params.values()):
        rows = p.to_local().shape[0]
        first = 0 if dist.get_rank() == 0 else p.shape[0] - rows
        q.grad[: -(-p.shape[0] // 2)] = 0.0  # the first rank's
        if dist.get_rank() == 0:
            p.grad = None
        assert q.grad[first : first + rows].shape == p.to_local().shape, name
    optimizer.step()
    reference.step()
    found = [full(p) for p in model.params.values()]
    torch.testing.assert_close(found, [q.detach() for q in single.params.values()], rtol=1e-9, atol=1e-9)
    if optimizer.last_norm is not None:
        torch.testing.assert_close(optimizer.last_norm, reference.last_norm, rtol=1e-12, atol=0.0)


def functions(spread: Callable[[], Spread]) -> None:
    """The functions measure and scale what those of one process do."""
    results = []
    for model in (spread(), alone()):
        values: list[Any] = []
        model.loss(0).backward()
        params = list(model.params.values())
        grads = [p.grad for p in params]
        values += [torch_gd.get_total_norm(grads, order) for order in (1, 2, 3, INF)]
        versions = [g._version for g in grads]
        # The gradients of the norm are sums of which each rank has a part.
        torch_gd.clip_grad_adaptive_([p for name, p in model.params.items() if "norm" not in name], 0.05)
        values.append(torch_gd.clip_grad_norm_(params, 0.5, 3.0, error_if_nonfinite=True))
        values += [full(g) for g in grads]
        torch_gd.clip_grads_with_norm_(params, 0.1, torch_gd.get_total_norm(grads))
        values += [full(g) for g in grads]
        assert all(g._version >= before + 2 for g, before in zip(grads, versions) if isinstance(g, DTensor))
        results.append(values)
    assert all(isinstance(norm, DTensor) == (spread is fsdp) for norm in results[0][:5])  # of one mesh
    for found, expected in zip(*results):
        torch.testing.assert_close(full(found), full(expected), rtol=1e-9, atol=1e-9)


def share_of_two() -> None:
    """Two optimizers that share a norm step as one."""

    def drive(model: Spread) -> FusedOptimizer:
        if model.mine(batch_of(0)).shape == batch_of(0).shape:
            return training("AdamW", clip=ClipByGlobalNorm(0.05), eps=1e-3)(model)
        params = list(model.params.values())
        options: dict[str, Any] = {"lr": 0.05, "eps": 1e-3, "clip": ClipByGlobalNorm(0.05)}
        first = torch_gd.AdamW(params[:3], **options)
        second = torch_gd.AdamW(params[3:], weight_decay=0.1, **options)
        for step in range(STEPS):
            for p in params:
                p.grad = None
            model.loss(step).backward()
            with all_reduces() as asked:
                norm = torch_gd.distributed.share_norm([first, second])
                first.step()
                second.step()
            assert len(asked) == 1
            assert norm == first.last_norm == second.last_norm
        first.state.update(second.state)
        return first

    compare(fsdp(), drive)


def share_of_some(missing: bool) -> None:
    """Ranks that share a norm may have different numbers of optimizers, and gradients for some of them only."""
    rank = dist.get_rank()
    params = [torch.ones(2, requires_grad=True) for _ in range(2 - rank if not missing else 2)]
    clip = ClipByGlobalNorm(1.0, norm_type=1, groups=(dist.group.WORLD,))
    optimizers = [torch_gd.SGD([p], lr=1.0, clip=clip) for p in params]
    for _ in range(2):
        for p in params[: 2 - rank]:
            p.grad = torch.ones(2)
        norm = torch_gd.distributed.share_norm(optimizers)
        for optimizer in optimizers:
            optimizer.step()
    assert norm == 6.0
    assert [float(o.last_norm) for o, p in zip(optimizers, params) if p.grad is not None] == [6.0] * (2 - rank)
    expected = [1.0 - 2 / 6 if p.grad is not None else 1.0 for p in params]
    torch.testing.assert_close([float(p[0].detach()) for p in params], expected, rtol=1e-6, atol=0.0)


def shared_norm_of_other_gradients(change: Callable[[Tensor, FusedOptimizer], Any]) -> None:
    """A norm that was measured of something else than what a step finds is refused."""
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    optimizer = torch_gd.SGD([p], lr=1.0, clip=1.0)
    torch_gd.distributed.share_norm([optimizer])
    change(p, optimizer)
    with pytest.raises(RuntimeError, match=r"share_norm\(\) measured is of other gradients"):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(2))


def policies_alternate() -> None:
    """Policies may change between steps on all ranks, also where ranks need new plans at different steps."""
    model = fsdp()
    optimizer = model.optimizer("SGD", clip=1.0)
    first, second = optimizer.clip, ClipByGlobalNorm(2.0)
    norms = []
    for step, clip in enumerate([first, first, second, None, first, first]):
        optimizer.zero_grad()
        model.loss(step).backward()
        if step in (2, 3) and dist.get_rank() == 1:
            model.params["up.weight"].grad = None
        optimizer.clip = clip
        optimizer.step()
        norms.append(clip is None or float(optimizer.last_norm) > 0)
    assert all(norms)


def refused_over_ranks() -> None:
    """What would be measured wrongly, or cannot be clipped in place, is named."""
    model = fsdp()
    model.loss(0).backward()
    params, mesh = list(model.params.values()), model.params["up.weight"].device_mesh
    errors = []
    for groups in ((mesh,), (dist.group.WORLD,), (dist.group.WORLD, mesh)):
        try:
            model.optimizer("SGD", clip=ClipByGlobalNorm(1.0, groups=groups)).step()
        except ValueError as error:
            errors.append(str(error))
    with pytest.raises(ValueError, match="over several ranks it must be above 0"):
        torch_gd.get_total_norm([p.grad for p in params], 0.0)
    with pytest.raises(RuntimeError, match="is non-finite, so it cannot be clipped"):
        torch_gd.clip_grad_norm_([*params, with_gradient(INF)], 1.0, error_if_nonfinite=True)
    partial_sums(params[0])
    for function in (torch_gd.clip_grad_value_, torch_gd.clip_grad_adaptive_):
        with pytest.raises(RuntimeError, match=r"the gradient of parameter 0, .* redistribute\(\) it first"):
            function(params, 0.5)
    assert len(errors) == 3, errors
    assert all("are together in group" in error for error in errors), errors


def with_gradient(value: float) -> Tensor:
    """Return a plain parameter whose gradient is a number."""
    p = torch.zeros(1, requires_grad=True)
    p.grad = torch.full((1,), value)
    return p


def plain_nan(norm_type: float) -> None:
    """A NaN that one rank has in a plain tensor beside DTensors leaves the step out on every rank."""
    model = partly()
    optimizer = model.optimizer("SGD", clip=ClipByGlobalNorm(0.05, norm_type, skip_nonfinite=True))
    model.loss(0).backward()
    before = [full(p) for p in model.params.values()]
    if dist.get_rank() == 1:
        model.params["head.bias"].grad[0] = float("nan")
    optimizer.step()
    after = [full(p) for p in model.params.values()]
    assert optimizer.skipped_steps == 1
    assert all(map(torch.equal, before, after))


def in_float32() -> None:
    """In single precision, too, the norm is the whole model's, and float32."""
    results = []
    for model in (fsdp(), alone()):
        model.model.float()
        optimizer = torch_gd.SGD(model.params.values(), lr=0.5, clip=ClipByGlobalNorm(0.05))
        (model.model(model.mine(batch_of(0)).float()) - 1).square().mean().backward()
        norm = torch_gd.get_total_norm([p.grad for p in model.params.values()])
        torch_gd.clip_grad_value_(model.params.values(), 0.5)
        optimizer.step()
        results.append([full(norm), *(full(p) for p in model.params.values())])
    for found, expected in zip(*results):
        # Ranks sum in another order: some 100 roundings of 6e-8.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def stages_in_shards() -> None:
    """Stages of a pipeline, each of which is sharded: the norm is of all four ranks' parts."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    clip = ClipByGlobalNorm(1.0, groups=(mesh["pp"],))
    stage = mesh["pp"].get_local_rank()
    params = [nn.Parameter(distribute_tensor(torch.ones(4), mesh["dp"], [Shard(0)])) for _ in range(1 + stage)]
    for p in params:
        p.grad = distribute_tensor(torch.ones(4), mesh["dp"], [Shard(0)])
    norm = torch_gd.clip_grad_norm_(params, 100.0, groups=[mesh["pp"]])
    optimizer = torch_gd.SGD(params, lr=1.0, clip=clip)
    optimizer.step()
    # A few roundings to single precision, of 6e-8 each.
    torch.testing.assert_close([float(optimizer.last_norm), float(full(norm))], [12**0.5] * 2, rtol=5e-7, atol=0.0)


def gradients_missing_on_some() -> None:
    """Ranks ask for the same sums in the same order, whichever gradients they have."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    params = [nn.Parameter(distribute_tensor(torch.ones(4), mesh[dim], [Shard(0)])) for dim in ("dp", "tp")]
    for p, dim in zip(params, ("dp", "tp")):
        p.grad = distribute_tensor(torch.ones(4), mesh[dim], [Shard(0)])
    if dist.get_rank() in (0, 3):
        params[0].grad = None
    norms = [torch_gd.clip_grad_norm_(params, 1.0)]
    clip = ClipByGlobalNorm(1.0)
    optimizers = [torch_gd.SGD([p], lr=1.0, clip=clip) for p in params]
    norms.append(torch_gd.distributed.share_norm(optimizers))
    for optimizer in optimizers:
        optimizer.step()
    assert all(norm.isfinite() for norm in norms)


def policies_differ(*clips: Any) -> None:
    """A rank that would wait for others raises; one that would not may be the first, and never learn of it."""
    model, clip = fsdp(), clips[dist.get_rank()]
    model.loss(0).backward()
    optimizer = model.optimizer("SGD", clip=clip)
    try:
        optimizer.step()
        error = ""
    except RuntimeError as problem:
        error = str(problem)
    waits = isinstance(clip, (float, ClipByGlobalNorm, ClipAdaptive))
    assert "give the optimizer the same clip on every rank" in error or not waits


def stages(norm_type: float) -> None:
    """Ranks that hold different parameters clip by the norm of all, if they are told of one another."""
    whole = new_net()
    halves = [list(whole.parameters())[i::2] for i in range(2)]
    batch = batch_of(0)
    (whole(batch) - 1).square().mean().backward()
    mine = [p.detach().clone().requires_grad_() for p in halves[dist.get_rank()]]
    for p, q in zip(mine, halves[dist.get_rank()]):
        p.grad = q.grad.clone()
    expected = torch_gd.SGD(whole.parameters(), lr=0.5, clip=ClipByGlobalNorm(0.05, norm_type))
    expected.step()
    clip = ClipByGlobalNorm(0.05, norm_type, groups=(dist.group.WORLD,))
    optimizer = torch_gd.SGD(mine, lr=0.5, clip=clip)
    norm = torch_gd.get_total_norm([p.grad for p in mine], norm_type, groups=[dist.group.WORLD])
    optimizer.step()
    torch.testing.assert_close(mine, halves[dist.get_rank()], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(norm, expected.last_norm, rtol=1e-12, atol=0.0)
    assert "groups" not in optimizer.state_dict()["param_groups"][0]["clip_policy"]
    optimizer.load_state_dict(torch_gd.SGD(mine, clip=ClipByGlobalNorm(2.0)).state_dict())
    assert optimizer.clip == ClipByGlobalNorm(2.0, groups=(dist.group.WORLD,))


def guide() -> None:
    """The guide's examples run."""
    assert not run_blocks(torch_gd.distributed.__doc__ or "", torch_gd.distributed.__file__)


def trained_alone(clip: torch_gd.ClipPolicy) -> list[Tensor]:
    """Return the parameters of one process that has trained with AdamW."""
    single = alone()
    optimizer = torch_gd.AdamW(single.model.parameters(), lr=0.05, eps=1e-3, clip=clip)
    for step in range(STEPS):
        optimizer.zero_grad()
        single.loss(step).backward()
        optimizer.step()
    return [p.detach() for p in single.model.parameters()]


def steps_of(model: nn.Module, optimizer: Any) -> None:
    """Train on this rank's rows."""
    for step in range(STEPS):
        optimizer.zero_grad()
        rows = batch_of(step).chunk(dist.get_world_size())[dist.get_rank()]
        (model(rows) - 1).square().mean().backward()
        optimizer.step()


def fsdp1(use_orig_params: bool) -> None:
    """FSDP1 clips by the norm of the whole if it is told the group, and raises if not."""
    model = FullyShardedDataParallel(new_net(), use_orig_params=use_orig_params, device_id=torch.device("cpu"))
    clip = ClipByGlobalNorm(0.05, groups=(model.process_group,))
    steps_of(model, torch_gd.AdamW(model.parameters(), lr=0.05, eps=1e-3, clip=clip))
    with FullyShardedDataParallel.summon_full_params(model):
        found = [p.detach().clone() for p in model.parameters()]
    errors = []
    for refused in (ClipByGlobalNorm(0.05), ClipAdaptive()):
        with pytest.raises(RuntimeError, match="flattened by FullyShardedDataParallel") as caught:
            torch_gd.AdamW(model.parameters(), clip=refused).step()
        errors.append(str(caught.value))
    for function in (torch_gd.clip_grad_norm_, torch_gd.clip_grad_adaptive_):
        with pytest.raises(RuntimeError, match=r"parameter \d+.*flattened by FullyShardedDataParallel"):
            function(model.parameters(), 1.0)
    expected = trained_alone(ClipByGlobalNorm(0.05))
    assert "groups=(model.process_group,)" in errors[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def zero() -> None:
    """ZeRO clips by the norm of the whole if it is told the group."""
    net: Net = new_net()
    model = DistributedDataParallel(net)
    clip = ClipByGlobalNorm(0.05, groups=(dist.group.WORLD,))
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch_gd.AdamW, lr=0.05, eps=1e-3)
    optimizer.optim.clip = clip
    steps_of(model, optimizer)
    expected = trained_alone(ClipByGlobalNorm(0.05))
    torch.testing.assert_close([p.detach() for p in net.parameters()], expected, rtol=1e-9, atol=1e-9)


def clipping_cases() -> dict[str, Case]:
    """Return the cases of two ranks."""
    first, norm, units = "one rank", ClipByGlobalNorm(0.05), ClipAdaptive(0.01)
    changes = {
        "all gradients replicated for a step": (at_step(2, replicated), fsdp),
        "partial sums for a step": (at_step(1, partial_sums), fsdp),
        "one rank alone makes a new plan": (at_step(2, replace_shard, "down.weight", rank=0), tp),
    }

    moved: dict[str, Callable[[Tensor, FusedOptimizer], Any]] = {
        "another gradient": lambda p, optimizer: setattr(p, "grad", torch.ones(2)),
        "no gradient": lambda p, optimizer: setattr(p, "grad", None),
        "a gradient that has changed": lambda p, optimizer: p.grad.mul_(2),  # type: ignore[union-attr]  # it has one
        "another policy": lambda p, optimizer: setattr(optimizer, "clip", 2.0),
    }

    def changed(before: Any, spread: Callable[[], Spread], clip: torch_gd.ClipPolicy) -> None:
        compare(spread(), training("SGD", before, clip=clip))

    return {
        **policies(fsdp, tp, partly),
        **{
            f"clipped: {what}: {label(clip)}": partial(changed, *row, clip)
            for what, row in changes.items()
            for clip in (norm, units)
        },
        **{f"one sum a step: {label(clip)}": partial(one_sum, clip) for clip in (norm, units)},
        **{
            f"{first} has {value}, norm {order}": partial(one_rank_is_not_finite, value, order)
            for value in (float("nan"), INF)
            for order in (2.0, INF)
        },
        **{
            f"{first} has no gradients: {label(clip)}": partial(one_rank_has_no_gradients, clip)
            for clip in (norm, units)
        },
        **{f"functions: {spread.__name__}": partial(functions, spread) for spread in (fsdp, tp, partly)},
        "the guide": guide,
        "two optimizers share a norm": share_of_two,
        "ranks with different numbers of optimizers share a norm": partial(share_of_some, False),
        "ranks with different gradients share a norm": partial(share_of_some, True),
        **{f"shared norm, {what}": partial(shared_norm_of_other_gradients, change) for what, change in moved.items()},
        "policies alternate": policies_alternate,
        "refused over ranks": refused_over_ranks,
        **{f"one rank has a NaN in a plain tensor, norm {order}": partial(plain_nan, order) for order in (2.0, INF)},
        "float32": in_float32,
        **{
            f"policies differ: {' and '.join(map(label, clips))}": partial(policies_differ, *clips)
            for clips in [(1.0, 2.0), (None, 1.0), (1.0, None), (norm, units), (torch_gd.ClipByValue(1.0), norm)]
        },
        **{f"stages: norm {order}": partial(stages, order) for order in (2.0, INF)},
        **{f"FSDP1, use_orig_params={use}": partial(fsdp1, use) for use in (False, True)},
        "ZeRO": zero,
        **{
            f"GradScaler and {label(clip)}": lambda clip=clip: compare(fsdp(), partial(scaled, clip=clip))
            for clip in (norm, units)
        },
    }


def clipping_on_four() -> dict[str, Case]:
    """Return the cases of four ranks."""
    return {
        **policies(hsdp, fsdp_tp),
        "functions: fsdp_tp": partial(functions, fsdp_tp),
        "stages in shards": stages_in_shards,
        "gradients missing on some": gradients_missing_on_some,
    }


def clipping_on_a_gpu() -> dict[str, Case]:
    """Return the cases of one rank on a GPU, which has nobody to add up with."""
    return {**policies(fsdp, tp), "functions: fsdp": partial(functions, fsdp)}


def clipping_on_kernels() -> dict[str, Case]:
    """Return a sample for our kernels."""
    return {
        "clip by norm": partial(clipped, partly, "AdamW", eps=1e-3, clip=ClipByGlobalNorm(0.05)),
        "clip by unit": partial(clipped, tp, "SGD", clip=ClipAdaptive(0.01)),
        "clip by unit in shards": partial(clipped, fsdp, "SGD", clip=ClipAdaptive(0.01)),
    }
