"""Regularisation that no gradient expresses: which parameters decay, and L1 as a proximal step."""

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Gains of these may have more than one dimension: LayerNorm([8, 8]).
NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def param_groups_weight_decay(
    model: nn.Module | Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    no_weight_decay_list: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Two parameter groups, of which one does not decay: biases, and the gains of normalisation layers.

    What has one dimension or none does not decay, nor what is named bias or belongs to a normalisation layer. Frozen
    parameters are left out. A parameter that is shared appears once, under its first name.

    Args:
        model: a module, or its named parameters, which do not tell the layer they belong to.
        weight_decay: of the group that decays, 0 or more.
        no_weight_decay_list: names of more parameters that do not decay, as `named_parameters` gives them.

    Returns:
        Groups of named parameters, for any optimizer. A group that would be empty is left out.

    Raises:
        ValueError: a negative `weight_decay`, a listed name that is no parameter's, or nothing to train.

    Example:
        >>> groups = torch_gd.param_groups_weight_decay(model, 0.05, ["embedding.weight"])
        >>> optimizer = torch_gd.AdamW(groups, lr=1e-3)
    """
    if not weight_decay >= 0:
        raise ValueError(f"Invalid weight_decay: {weight_decay}; it must be 0 or more")
    normalising: set[nn.Parameter] = set()
    if isinstance(model, nn.Module):
        every = list(model.named_parameters(remove_duplicate=False))
        normalising = {
            p for module in model.modules() if isinstance(module, NORMALISATIONS) for p in module.parameters()
        }
    else:
        every = list(model)
    if unknown := set(no_weight_decay_list) - {name for name, _ in every}:
        raise ValueError(f"Invalid no_weight_decay_list: {sorted(unknown)} are no names of parameters")
    # A shared parameter stays undecayed under whichever of its names it is listed.
    listed = {p for name, p in every if name in set(no_weight_decay_list)}
    decayed: dict[nn.Parameter, str] = {}
    undecayed: dict[nn.Parameter, str] = {}
    for name, p in every:
        if p.requires_grad:
            left_out = p.ndim <= 1 or name.split(".")[-1] == "bias" or p in normalising or p in listed
            (undecayed if left_out else decayed).setdefault(p, name)
    if not decayed and not undecayed:
        raise ValueError("Invalid model: it has no parameter that requires a gradient")
    groups = ((undecayed, 0.0), (decayed, weight_decay))
    return [
        {"params": [(name, p) for p, name in members.items()], "weight_decay": decay}
        for members, decay in groups
        if members
    ]


@torch.no_grad()
def soft_threshold_(params: Iterable[Tensor], amount: float) -> None:
    r"""Moves every element towards 0 by `amount`, and those that would cross it to exactly 0.

    .. math:: w \leftarrow \operatorname{sign}(w) \max(|w| - a, 0)

    The proximal step of an L1 penalty (Daubechies, Defrise & De Mol 2004): after a step at rate lr, with a = lr · λ, it
    makes weights that are 0, where λ · sign(w) in the gradient makes weights that tremble around it.

    Args:
        params: changed in place; leave biases out.
        amount: a, 0 or more, in the weights' own unit.

    Raises:
        ValueError: a negative `amount`.

    Example:
        >>> optimizer.step()
        >>> torch_gd.soft_threshold_(weights, lr * 1e-4)
    """
    if not amount >= 0:
        raise ValueError(f"Invalid amount: {amount}; it must be 0 or more")
    for p in params:
        p.copy_(nn.functional.softshrink(p, amount))
