"""One norm for several optimizers: they clip as one optimizer of all their parameters would."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .._arguments import as_list, found
from .._engine.agreement import compare_policies
from .._engine.clip import SharedNorm, described, measures
from .._engine.ranks import why_not_measured
from .._engine.shards import local_tensors
from .._engine.writable import Use, check
from ..clipping.over_ranks import norm_over_ranks
from ..clipping.policies import ClipByGlobalNorm
from ..optimizers import FusedOptimizer


@torch.no_grad()
def share_norm(optimizers: Iterable[FusedOptimizer]) -> Tensor:
    """Measure the gradients of several optimizers as one norm, by which the next step of each of them clips.

    Call it after `backward`, before the optimizers' steps, and on all ranks; nothing waits for it. A step for which
    gradients or policy have changed since raises. With a GradScaler, call `scaler.unscale_` for each of the optimizers
    first, or the norm returned is of scaled gradients.

    Args:
        optimizers: optimizers of this package, each with the same `ClipByGlobalNorm`.

    Returns:
        The norm of all gradients before clipping: 0-d, on the device of the first of them.

    Raises:
        TypeError: something that is not an optimizer of this package.
        ValueError: no optimizer, or their policies are not the same `ClipByGlobalNorm`.
        RuntimeError: a gradient that cannot be measured, named; or FSDP1 has flattened a parameter, and the policy has
            no `groups`.

    Example:
        >>> import torch, torch_gd
        >>> params = [torch.zeros(1, requires_grad=True) for _ in range(2)]
        >>> params[0].grad, params[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
        >>> optimizers = [torch_gd.SGD([p], lr=1.0, clip=1.0) for p in params]
        >>> torch_gd.distributed.share_norm(optimizers)
        tensor(5.)
        >>> for optimizer in optimizers:
        ...     optimizer.step()
        >>> params
        [tensor([-0.6000], requires_grad=True), tensor([-0.8000], requires_grad=True)]
    """
    every = as_list("optimizers", optimizers, "pass optimizers of torch_gd in a list")
    for i, optimizer in enumerate(every):
        if not isinstance(optimizer, FusedOptimizer):
            raise TypeError(f"Invalid optimizers: item {i} is {found(optimizer)}; pass optimizers of torch_gd")
    policies = [optimizer.clip for optimizer in every]
    policy = policies[0] if policies else None
    if not (isinstance(policy, ClipByGlobalNorm) and measures(policy)) or policies.count(policy) < len(policies):
        raise ValueError(
            f"Invalid optimizers: their clip policies are {policies}; give each of them the same ClipByGlobalNorm"
        )
    places = {
        (i, k, j): p
        for i, optimizer in enumerate(every)
        for k, group in enumerate(optimizer.param_groups)
        for j, p in enumerate(group["params"])
    }
    params, with_grad = list(places.values()), [place for place, p in places.items() if p.grad is not None]
    for place, p in places.items():
        if why := why_not_measured(p, policy.groups):
            raise RuntimeError(f"{_named(place)} {why}")
    grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
    check(local_tensors(grads), Use.MEASURED, lambda i: f"the gradient of {_named(with_grad[i])}")
    if not all(optimizer._engine.compared for optimizer in every):
        compared = compare_policies(params, policy.groups, described(policy), waits=True)
        for optimizer in every:
            optimizer._engine.compared |= compared
    (norm,) = local_tensors([norm_over_ranks(grads, params, policy.norm_type, False, policy.groups)])
    for i, optimizer in enumerate(every):
        theirs = [p for place, p in places.items() if place[0] == i]
        optimizer._engine.shared_norm = SharedNorm(norm, policies[i], theirs)
    return norm


def _named(place: tuple[int, int, int]) -> str:
    return "parameter {2} of group {1} of optimizer {0}".format(*place)
