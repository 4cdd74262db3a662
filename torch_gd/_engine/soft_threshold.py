"""L1 as a proximal step, on torch's operators. The update kernel has its own line for it."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .._arguments import as_list, found, number

_PARAMS = "pass tensors, such as model.parameters()"


@torch.no_grad()
def shrink_(params: Iterable[Tensor], amount: float | Tensor) -> None:
    """Do what `soft_threshold_` does, for an amount that has been checked or is a 0-d tensor."""
    for p in params:
        p.copy_(p.sgn() * (p.abs() - amount).clamp_(min=0))


def soft_threshold_(params: Iterable[Tensor], amount: float) -> None:
    r"""Move every element towards 0 by `amount`, and set those that would cross it to exactly 0.

    .. math:: w \leftarrow \operatorname{sign}(w) \max(|w| - a, 0)

    This is the proximal step of an L1 penalty (Daubechies, Defrise & De Mol 2004). After a step at rate lr, with
    a = lr · λ, it makes weights that are exactly 0. Adding λ · sign(w) to the gradient makes weights that tremble
    around 0 instead.

    Args:
        params: floating-point tensors, changed in place; leave biases out.
        amount: a, 0 or more, in the weights' own unit.

    Raises:
        TypeError: `amount` is no number, or `params` are not tensors.
        ValueError: `amount` is negative or infinite.

    Example:
        >>> import torch, torch_gd
        >>> weights = [torch.tensor([0.5, -0.05, -1.0])]
        >>> torch_gd.soft_threshold_(weights, 0.1)
        >>> weights
        [tensor([ 0.4000, -0.0000, -0.9000])]
    """
    number("amount", amount)
    params = [params] if isinstance(params, Tensor) else as_list("params", params, _PARAMS)
    for i, p in enumerate(params):
        if not isinstance(p, Tensor):
            raise TypeError(f"Invalid params: item {i} is {found(p)}; {_PARAMS}")
    shrink_(params, amount)
