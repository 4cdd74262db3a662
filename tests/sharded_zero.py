"""Other ways to share states, parameters and gradients: ZeRO, FSDP1, and the policies that FSDP2 takes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sharded import STEPS, Spread, alone, compare, ddp, fsdp, full, new_net, rows, training
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, FullyShardedDataParallel, MixedPrecisionPolicy
from torch.distributed.optim import ZeroRedundancyOptimizer

import torch_gd
from torch_gd.optimizers import FusedOptimizer

Case = Callable[[], Any]
HALF = STEPS // 2


def train(model: Spread, optimizer: Any, steps: range) -> None:
    """Train for some steps."""
    for step in steps:
        optimizer.zero_grad()
        model.loss(step).backward()
        optimizer.step()


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that tensors are equal, but for what `compare` allows."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def alone_by(clip: torch_gd.ClipPolicy | None) -> torch_gd.ClipPolicy | None:
    """Return the policy of one process."""
    return replace(clip, groups=()) if isinstance(clip, torch_gd.ClipByGlobalNorm) else clip


def zero(name: str, clip: torch_gd.ClipPolicy | None = None, bucket: bool = False, **options: Any) -> None:
    """With ZeRO, saved by one rank and resumed by all, training is training in one process."""

    def optimizer_of(model: Spread) -> ZeroRedundancyOptimizer:
        groups = model.optimizer(name).param_groups
        groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
        found = ZeroRedundancyOptimizer(
            groups, getattr(torch_gd, name), parameters_as_bucket_view=bucket, lr=0.05, **options
        )
        if clip is not None:
            found.optim.clip = clip
        return found

    model, single = ddp(), alone()
    optimizer, reference = optimizer_of(model), single.optimizer(name, clip=alone_by(clip), **options)
    train(single, reference, range(STEPS))
    train(model, optimizer, range(HALF))
    optimizer.consolidate_state_dict(to=0)
    saved = [optimizer.state_dict() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(saved)
    resumed = optimizer_of(model)
    resumed.load_state_dict(saved[0])
    train(model, resumed, range(HALF, STEPS))
    resumed.consolidate_state_dict(to=0)
    assert resumed.optim.clip == clip
    assert_close(model.params, single.params)
    if dist.get_rank() == 0:
        assert_close(resumed.state_dict()["state"], reference.state_dict()["state"])


def zero_takes_no_clip() -> None:
    """It would hand the policy on to groups; the error says where to set it."""
    for clip in (1.0, torch_gd.ClipByValue(0.5)):
        with pytest.raises(TypeError, match=r"zero\.optim\.clip of a ZeroRedundancyOptimizer"):
            ZeroRedundancyOptimizer(new_net().parameters(), torch_gd.AdamW, lr=0.1, clip=clip)


def fsdp1(name: str, original: bool, **options: Any) -> None:
    """Under FSDP1, training that is saved and resumed is training in one process."""
    options |= {"lr": 0.05, "weight_decay": 0.1}
    model, single = (
        FullyShardedDataParallel(new_net(), use_orig_params=original, device_id=torch.device("cpu")),
        alone(),
    )
    spread, reference = Spread(model, rows()), getattr(torch_gd, name)(single.model.parameters(), **options)
    train(single, reference, range(STEPS))
    optimizer = getattr(torch_gd, name)(model.parameters(), **options)
    train(spread, optimizer, range(HALF))
    optimizer.zero_grad()
    saved, resumed = get_optimizer_state_dict(model, optimizer), getattr(torch_gd, name)(model.parameters(), **options)
    set_optimizer_state_dict(model, resumed, saved)
    train(spread, resumed, range(HALF, STEPS))
    with FullyShardedDataParallel.summon_full_params(model):
        found = {name.removeprefix("_fsdp_wrapped_module."): p.detach().clone() for name, p in model.named_parameters()}
    assert_close(found, dict(single.params))


def low_precision() -> None:
    """In bfloat16, and float32 between ranks, gradients have their parameters' dtype, and steps are torch's."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    ours, theirs = fsdp(mp_policy=policy), fsdp(mp_policy=policy)
    train(ours, ours.optimizer("AdamW", eps=1e-3), range(STEPS))
    train(theirs, theirs.optimizer("AdamW", torch.optim, eps=1e-3), range(STEPS))
    found, expected = [{name: full(p) for name, p in model.params.items()} for model in (ours, theirs)]
    assert {p.grad.dtype for p in ours.params.values()} == {torch.float64}
    assert_close(found, expected)


def accumulated(model: Spread) -> FusedOptimizer:
    """Sum the gradients of two batches, and have FSDP2 communicate once."""
    optimizer = model.optimizer("AdamW", eps=1e-3)
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in (step, step + STEPS):
            if isinstance(model.model, FSDPModule):
                model.model.set_requires_gradient_sync(part != step)
            model.loss(part).backward()
        optimizer.step()
    return optimizer


def sharing() -> dict[str, Case]:
    """Return cases for two ranks."""
    offload = CPUOffloadPolicy(pin_memory=False)
    return {
        "ZeRO: AdamW": partial(zero, "AdamW", eps=1e-3),
        "ZeRO: SGD, L1": partial(zero, "SGD", momentum=0.9, l1=0.01),
        "ZeRO: Adagrad, fused, in buckets": partial(zero, "Adagrad", eps=1e-3, fused=True, bucket=True),
        "ZeRO: RMSprop, clip by value": partial(zero, "RMSprop", torch_gd.ClipByValue(1e-3), eps=1e-3),
        "ZeRO: SGD, clip by norm": lambda: zero("SGD", torch_gd.ClipByGlobalNorm(0.05, groups=[dist.group.WORLD])),
        "ZeRO refuses a policy": zero_takes_no_clip,
        **{
            f"FSDP1: {name}{', original parameters' if original else ''}": partial(fsdp1, name, original, **options)
            for name, options in (("AdamW", {"eps": 1e-3}), ("SGD", {"momentum": 0.9}))
            for original in (False, True)
        },
        "FSDP2: CPU offload": lambda: compare(fsdp(offload_policy=offload), training("AdamW", eps=1e-3)),
        "FSDP2: low precision": low_precision,
        "FSDP2: accumulation without communication": lambda: compare(fsdp(), accumulated),
    }
