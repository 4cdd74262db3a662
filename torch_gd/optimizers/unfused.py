"""Helpers of optimizers for which torch has no fused kernel."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from inspect import Parameter, signature
from itertools import compress
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .._engine.spec import FusedTensors, Group, LoopTensors, State, TorchFlags
from .fused_rmsprop import SCRATCH, in_pieces

# Elements a tensor below which torch's foreach is the faster one on the CPU, where torch takes its for-loop. Over 300
# tensors on one thread it takes 0.6 to 0.9 of the for-loop's time at 1 element, 0.8 to 1.0 at 4,096, 1.3 to 2.2 at
# 16,384.
FOREACH_BELOW = 1 << 13
# Operators under the same names for a tensor and for lists of tensors.
_NAMES = ["abs", "add", "add_", "addcdiv_", "addcmul_", "clamp_min_", "div_", "lerp_", "mul_", "neg", "sqrt", "sqrt_"]
ONE = SimpleNamespace(**{name: getattr(Tensor, name) for name in _NAMES})
MANY = SimpleNamespace(**{name: getattr(torch, f"_foreach_{name}") for name in _NAMES})


def zeros(p: Tensor, *names: str) -> State:
    """Return a state of zeros for each name, laid out as the parameter."""
    return {name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in names}


def call_torch(
    function: Callable[..., None], state_names: tuple[str, ...], group: Group, tensors: LoopTensors, flags: TorchFlags
) -> None:
    """Call one of torch's functional implementations, with the options of a group under their names.

    Args:
        function: such as `torch.optim.adamax.adamax`.
        state_names: keys of the states, in the order in which it takes their lists.
        group: the parameter group.
        tensors: parameters, gradients and states.
        flags: of which `foreach` is passed on.
    """
    options = {name: group[name] for name in _options_of(function) if name in group}
    if "betas" in group:
        options["beta1"], options["beta2"] = group["betas"]
    options["foreach"] = flags.foreach
    options["has_complex"] = any(p.is_complex() for p in tensors.params)
    columns = ([state[name] for state in tensors.states] for name in state_names)
    function(tensors.params, tensors.grads, *columns, **options)


def in_operators(update: Callable[..., None], group: Group, tensors: FusedTensors) -> bool:
    """Update by torch's operators, a few tensors or a part of a large one at a time, which stay in the cache meanwhile.

    A lone tensor takes operators for one, since those for lists take twice as long to be called.

    Args:
        update: takes the operators, the group, what `by_step` yields of the tensors, the parameters, the gradients to
            descend, which it must not change, and the states: tensors, or lists of tensors for foreach operators.
        group: the parameter group.
        tensors: the tensors.

    Returns:
        True: autograd has seen the update.
    """
    size = SCRATCH * torch.get_num_threads()
    if len(tensors.params) == 1 and tensors.numel <= size:
        alone = tuple(counters[0].item() for counters in (tensors.steps, *tensors.products))
        _update(update, ONE, group, alone, tensors.params[0], tensors.grads[0], *[one for (one,) in tensors.states])
        return True
    for count, some in by_step(tensors):
        columns = [some.params, some.grads, *some.states]
        for piece in [columns] if some.numel <= size else in_pieces(columns, size):
            if len(piece[0]) == 1:
                _update(update, ONE, group, count, *[one for (one,) in piece])
            else:
                _update(update, MANY, group, count, *piece)
    return True


def _update(update: Any, ops: Any, group: Group, count: Sequence[float], params: Any, grads: Any, *states: Any) -> None:
    if group["maximize"]:
        grads = ops.neg(grads)
    if (decay := group["weight_decay"]) != 0:
        if group.get("decoupled_weight_decay", False):
            ops.mul_(params, 1 - float(group["lr"]) * decay)
        else:
            grads = ops.add(grads, params, alpha=decay)
    update(ops, group, count, params, grads, *states)


def by_step(tensors: FusedTensors) -> Iterator[tuple[tuple[float, ...], FusedTensors]]:
    """Yield the tensors that have equal counters, and the counters' values: mostly all of them."""
    counts = list(zip(*(map(Tensor.item, counters) for counters in (tensors.steps, *tensors.products))))
    if len(distinct := dict.fromkeys(counts)) == 1:
        yield counts[0], tensors
        return
    for count in distinct:
        mine = [other == count for other in counts]
        params, grads, steps, *states = (
            list(compress(column, mine)) for column in (tensors.params, tensors.grads, tensors.steps, *tensors.states)
        )
        yield count, FusedTensors(params, grads, states, steps, sum(map(Tensor.numel, params)))


@cache
def _options_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's parameters that are no lists of tensors."""
    return [
        parameter.name
        for parameter in signature(function).parameters.values()
        if parameter.kind is Parameter.KEYWORD_ONLY or parameter.default is not Parameter.empty
    ]
