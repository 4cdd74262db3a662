"""Layer-wise steps of a model that is spread over ranks: the norms are those of whole tensors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sharded import Spread, alone, compare, fsdp, full, new_net, partly, tp, training
from sharded_clipping import all_reduces
from sharded_training import at_step, partial_sums, replace_shard, replicated, scaled
from torch.distributed.fsdp import FullyShardedDataParallel

import torch_gd

Case = Callable[[], Any]
LAMB: dict[str, Any] = {"eps": 1e-3}
LARS: dict[str, Any] = {"trust_coeff": 0.5, "nesterov": True}


def one_sum(spread: Callable[[], Spread], name: str) -> None:
    """A step asks for one sum for each set of process groups, however many parameters there are."""
    model = spread()
    optimizer = training(name)(model)
    launches = torch_gd.explain(optimizer).launches
    with all_reduces() as asked:
        optimizer.step()
    assert len(asked) == 1
    assert launches in (0, 4, 4 + 3)  # of shards, and of what is whole


def one_rank_has_no_gradients() -> None:
    """Its shards stand still and count for the norms of the parameters; the other rank's are updated."""
    model, single = fsdp(), alone()
    # Without decay, and at the first step: what has no gradient has no update then.
    optimizer, reference = (torch_gd.LAMB(one.params.values(), lr=0.5, weight_decay=0.0) for one in (model, single))
    for one in (model, single):
        one.loss(0).backward()
    for p, q in zip(model.params.values(), single.params.values()):
        q.grad[: -(-p.shape[0] // 2)] = 0.0  # the first rank's
        if dist.get_rank() == 0:
            p.grad = None
    optimizer.step()
    reference.step()
    found = [full(p) for p in model.params.values()]
    torch.testing.assert_close(found, [q.detach() for q in single.params.values()], rtol=1e-9, atol=1e-9)


def flattened(name: str) -> None:
    """FSDP1's flat parameters have no layers."""
    model = FullyShardedDataParallel(new_net(), device_id=torch.device("cpu"))
    (model(torch.randn(2, 6, dtype=torch.float64)) - 1).square().mean().backward()
    with pytest.raises(RuntimeError, match=rf"{name}: parameter 0 .*has no layers any more; use fully_shard"):
        getattr(torch_gd, name)(model.parameters()).step()


def changed(spread: Callable[[], Spread], before: Any) -> None:
    """Whatever one rank has to do anew, all ask for the same sums."""
    compare(spread(), training("LAMB", before, **LAMB))


def layer_cases() -> dict[str, Case]:
    """Return the cases of two ranks."""
    return {
        "layer-wise: one sum, LAMB": partial(one_sum, fsdp, "LAMB"),
        "layer-wise: one sum, LARS": partial(one_sum, partly, "LARS"),
        "layer-wise: one rank has no gradients": one_rank_has_no_gradients,
        "layer-wise: gradients replicated for a step": partial(changed, fsdp, at_step(2, replicated)),
        "layer-wise: partial sums for a step": partial(changed, fsdp, at_step(1, partial_sums)),
        "layer-wise: one rank alone makes a new plan": partial(
            changed, tp, at_step(2, replace_shard, "down.weight", rank=0)
        ),
        "layer-wise: clipped": lambda: compare(fsdp(), training("LAMB", clip=torch_gd.ClipByGlobalNorm(0.05), **LAMB)),
        "layer-wise: GradScaler": lambda: compare(fsdp(), partial(scaled, name="LAMB", fused=True, **LAMB)),
        **{f"layer-wise: FSDP1, {name}": partial(flattened, name) for name in ("LAMB", "LARS")},
    }


def layers_on_kernels() -> dict[str, Case]:
    """Return a sample for our kernels."""
    return {
        "layer-wise: fsdp LAMB": lambda: compare(fsdp(), training("LAMB", **LAMB)),
        "layer-wise: partly LARS": lambda: compare(partly(), training("LARS", **LARS)),
        "layer-wise: one sum": partial(one_sum, partly, "LAMB"),
    }
