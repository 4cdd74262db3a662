"""Parameter groups for weight decay: which parameters decay."""

from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor, nn

from .._arguments import as_list, found, number

# Gains of these may have more than one dimension: LayerNorm([8, 8]).
NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def param_groups_weight_decay(
    model: nn.Module | Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    no_weight_decay_list: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Return two parameter groups, one of which does not decay: biases, and the gains of normalisation layers.

    A parameter does not decay if it has one dimension or none, is named bias, or belongs to a normalisation layer.
    Frozen parameters are left out. A parameter that is shared appears once, under its first name.

    Args:
        model: a module, or its named parameters, which do not tell the layer that they belong to.
        weight_decay: weight decay of the group that decays, 0 or more.
        no_weight_decay_list: names of more parameters that do not decay, as `named_parameters` gives them.

    Returns:
        Groups of named parameters, for any optimizer. A group that would be empty is left out.

    Raises:
        TypeError: `model` is neither a module nor (name, parameter) pairs, `weight_decay` is no number, or
            `no_weight_decay_list` is no collection of names.
        ValueError: `weight_decay` is negative or infinite, a listed name that is no parameter's, or nothing to train.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2))
        >>> groups = torch_gd.param_groups_weight_decay(model, 0.05, ["0.weight"])
        >>> [([name for name, _ in group["params"]], group["weight_decay"]) for group in groups]
        [(['0.weight', '1.bias'], 0.0), (['1.weight'], 0.05)]
        >>> optimizer = torch_gd.AdamW(groups, lr=1e-3)
    """
    number("weight_decay", weight_decay)
    names = _names(no_weight_decay_list)
    normalising: set[nn.Parameter] = set()
    if isinstance(model, nn.Module):
        every = list(model.named_parameters(remove_duplicate=False))
        normalising = {
            p for module in model.modules() if isinstance(module, NORMALISATIONS) for p in module.parameters()
        }
    else:
        every = _named(model)
    if unknown := names - {name for name, _ in every}:
        raise ValueError(f"Invalid no_weight_decay_list: {sorted(unknown)} are no names of parameters")
    # A shared parameter stays undecayed under whichever of its names it is listed.
    listed = {p for name, p in every if name in names}
    decayed: dict[nn.Parameter, str] = {}
    undecayed: dict[nn.Parameter, str] = {}
    for name, p in every:
        if p.requires_grad:
            left_out = p.ndim <= 1 or name.split(".")[-1] == "bias" or p in normalising or p in listed
            (undecayed if left_out else decayed).setdefault(p, name)
    if not decayed and not undecayed:
        hint = "" if every or isinstance(model, nn.Module) else "; a generator is empty once it has been used"
        raise ValueError(f"Invalid model: it has no parameter that requires a gradient{hint}")
    groups = ((undecayed, 0.0), (decayed, weight_decay))
    return [
        {"params": [(name, p) for p, name in members.items()], "weight_decay": decay}
        for members, decay in groups
        if members
    ]


def _names(listed: Any) -> set[str]:
    must = "it must be a list of names, as named_parameters gives them"
    names = as_list("no_weight_decay_list", listed, must)
    if isinstance(listed, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"Invalid no_weight_decay_list: {found(listed)}; {must}")
    return set(names)


def _named(model: Any) -> list[tuple[str, nn.Parameter]]:
    must = "it must be a module, or (name, parameter) pairs such as model.named_parameters(): names say what decays"
    pairs = as_list("model", model, must)
    for pair in pairs:
        is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
        if not (is_pair and isinstance(pair[0], str) and isinstance(pair[1], Tensor)):
            raise TypeError(f"Invalid model: {found(pair)} is not a named parameter; {must}")
    return pairs
