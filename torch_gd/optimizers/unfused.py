"""Helpers of optimizers for which torch has no fused kernel."""

from collections.abc import Callable
from functools import cache
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from .._engine.spec import Group, LoopTensors, State, TorchFlags

# Elements a tensor below which torch's foreach is the faster one on the CPU, where torch takes its for-loop. Over 300
# tensors on one thread it takes 0.6 to 0.9 of the for-loop's time at 1 element, 0.8 to 1.0 at 4,096, 1.3 to 2.2 at
# 16,384.
FOREACH_BELOW = 1 << 13


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


@cache
def _options_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's parameters that are no lists of tensors."""
    return [
        parameter.name
        for parameter in signature(function).parameters.values()
        if parameter.kind is Parameter.KEYWORD_ONLY or parameter.default is not Parameter.empty
    ]
