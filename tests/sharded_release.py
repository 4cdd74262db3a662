"""Gradients released during backward, of models that are spread over ranks: the same bits, or a reason."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from sharded import STEPS, Spread, ddp, fsdp, fsdp_tp, full, hsdp, partly, tp

import torch_gd

BUCKET = 200  # bytes on each rank: three or four buckets


def trained(spread: Callable[[], Spread], released: bool) -> tuple[Spread, Any, list[str]]:
    """Return a trained model, its optimizer, and the names of the gradients that were there after the last backward."""
    model = spread()
    optimizer = model.optimizer("AdamW", clip=torch_gd.ClipByValue(1e-3))
    if released:
        torch_gd.release_gradients(model.model, optimizer, bucket_bytes=BUCKET)
    left: list[str] = []
    for step in range(STEPS):
        model.loss(step).backward()
        left = [name for name, p in model.params.items() if p.grad is not None]
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer, left


def released_as_ordinary(spread: Callable[[], Spread]) -> None:
    """Parameters and states are the same, to the bit."""
    (model, optimizer, left), (other, reference, _) = trained(spread, True), trained(spread, False)
    pairs = []
    for p, q in zip(model.params.values(), other.params.values()):
        state, expected = optimizer.state[p], reference.state[q]
        pairs += [(full(p), full(q)), *((full(state[name]), full(expected[name])) for name in expected)]
    assert all(torch.equal(one, another) for one, another in pairs)
    assert 0 < len(left) < len(model.params)


def refused(spread: Callable[[], Spread], text: str, name: str = "AdamW", norm: Any = None, **options: Any) -> None:
    """What adds up over ranks is refused at once, and nothing is left behind."""
    model = spread()
    optimizer = model.optimizer(name, **options)
    with pytest.raises(ValueError, match=text):
        torch_gd.release_gradients(model.model, optimizer, norm=norm)
    assert optimizer._rest_of_step is None
    assert not any(p._post_accumulate_grad_hooks for p in model.params.values())


def used_twice() -> None:
    """The gradients of a layer arrive once, however often it is used."""
    weights = []
    for released in (True, False):
        model = fsdp()
        optimizer, net = model.optimizer("SGD"), model.model
        if released:
            torch_gd.release_gradients(net, optimizer, bucket_bytes=1)
        net.forward = lambda x, net=net: net.down(net.up(net.down(net.up(x))))
        net(torch.ones(2, 6, dtype=torch.float64)).sum().backward()
        optimizer.step()
        weights.append([full(p) for p in model.params.values()])
    assert all(map(torch.equal, *weights))


def releases() -> dict[str, Callable[[], None]]:
    """Return the cases for two ranks."""
    return {
        **{f"release {spread.__name__}": partial(released_as_ordinary, spread) for spread in (fsdp, tp, partly)},
        "release ddp": partial(refused, ddp, "DistributedDataParallel adds gradients up"),
        "release LAMB": partial(refused, fsdp, "each rank has a part", "LAMB"),
        "release ClipAdaptive": partial(refused, fsdp, "each rank has a part", clip=torch_gd.ClipAdaptive()),
        "release by the norm before": partial(refused, fsdp, "one process", norm="previous", clip=1.0),
        "release of a layer that is used twice": used_twice,
    }


def releases_of_four() -> dict[str, Callable[[], None]]:
    """Return the cases for four ranks."""
    return {f"release {spread.__name__}": partial(released_as_ordinary, spread) for spread in (hsdp, fsdp_tp)}
