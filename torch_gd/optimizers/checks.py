"""Checks of constructor arguments: torch's error types and texts, followed by what the argument may be."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._arguments import answering, as_list, found, is_number, naming

_CLIP = "clip=torch_gd.ClipByGlobalNorm(1.0), or clip=1.0, clips by the global norm of all gradients, inside the step"
_WRONG_NAMES = {
    "clip": (
        "max_norm max_grad_norm grad_norm clip_norm clipnorm global_clipnorm grad_clip grad_clip_norm clip_grad "
        "clip_grad_norm gradient_clipping gradient_clip_val gradient_clip",
        _CLIP,
    ),
    "lr": ("learning_rate learn_rate", "write lr="),
    "betas": ("beta beta1 beta2 beta_1 beta_2", "write betas=(beta1, beta2)"),
    "eps": ("epsilon", "write eps="),
    "weight_decay": ("wd decay l2", "write weight_decay="),
    "alpha": ("rho", "write alpha="),
    "rho": ("alpha", "write rho="),
    "l1": ("l1_penalty l1_lambda lambda_l1", "write l1="),
}
_VALUE_CLIP = "clip=torch_gd.ClipByValue(0.5) clamps every element of the gradients, inside the step"
RIGHT_NAMES = {name: (right, text) for right, (names, text) in _WRONG_NAMES.items() for name in names.split()}
RIGHT_NAMES |= dict.fromkeys(("clip_value", "clip_grad_value", "clipvalue"), ("clip", _VALUE_CLIP))

right_names = answering(RIGHT_NAMES)

_TORCHS_NAMES = {"lr": "learning rate", "eps": "epsilon value"}
_PARAMS = "pass model.parameters(), or groups of parameters"
_EMPTY = f"optimizer got an empty parameter list; {_PARAMS}; a generator is empty once it has been used"
_BETAS = "betas must be two numbers in [0, 1), such as (0.9, 0.999)"


def parameters(params: Any) -> Any:
    """Return what an optimizer or a group is given to optimize; raise `TypeError` for a module, or what is no iterable.

    An iterable is returned as a list, so that a generator can be looked at.
    """
    if isinstance(params, nn.Module):
        kind = type(params).__name__
        raise TypeError(f"optimizer can only optimize Tensors, but params is the module {kind}; {_PARAMS}")
    if isinstance(params, (Tensor, set)):
        return params  # torch takes the one in a group, and names what is wrong with the other
    return as_list("params", params, _PARAMS)


def not_empty(params: Any) -> Any:
    """Return what `parameters` does; raise `ValueError` if there is none."""
    params = parameters(params)
    if isinstance(params, list) and not params:
        raise ValueError(_EMPTY)
    return params


def not_negative(**arguments: Any) -> None:
    """Raise for an argument that is below zero, NaN (`ValueError`) or no number (mostly `TypeError`, as in torch)."""
    for name, value in arguments.items():
        _check(_TORCHS_NAMES.get(name, f"{name} value"), value, f"{name} must be a number, 0 or more")


def from_zero_to_one(**arguments: Any) -> None:
    """Raise for an argument that is not in [0, 1], or no number, with torch's types."""
    for name, value in arguments.items():
        _check(f"{name} value", value, f"{name} must be a number in [0, 1]", below=math.nextafter(1.0, 2.0))


def any_number(**arguments: Any) -> None:
    """Raise `TypeError` for an argument that is no number, nor a tensor that counts as one."""
    for name, value in arguments.items():
        if not (value.dim() == 0 if isinstance(value, Tensor) else is_number(value)):
            raise TypeError(f"Invalid {name} value: {found(value)}; {name} must be a number")


def fill_value(**arguments: Any) -> None:
    """Raise for an argument that no tensor can be filled with."""
    for name, value in arguments.items():
        with naming(f"{name} value", value, f"{name} must be a number"):
            torch.full((), value)


def learning_rate(lr: Any, foreach: bool | None = None, capturable: bool = True) -> None:
    """Raise for a learning rate that is negative, NaN, no number, or a tensor where none can be used."""
    if isinstance(lr, Tensor):
        if foreach and not capturable:
            raise ValueError(
                "lr as a Tensor is not supported for capturable=False and foreach=True; leave foreach out, or pass a "
                "float"
            )
        if lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, but has shape {tuple(lr.shape)}")
    not_negative(lr=lr)


def pair_of_betas(betas: Any) -> tuple[Any, Any]:
    """Return both betas; raise unless they are two numbers within [0, 1)."""
    with naming("betas", betas, _BETAS):
        pair, count = (betas[0], betas[1]), len(betas)
    if count != 2:
        raise ValueError(f"Invalid betas: {found(betas)}; {_BETAS}")
    for i, beta in enumerate(pair):
        _check(f"beta parameter at index {i}", beta, f"betas[{i}] must be a number in [0, 1)", below=1.0)
    return pair


def betas(betas: Any, foreach: bool | None, capturable: bool) -> tuple[float | Tensor, float | Tensor]:
    """Return both betas, tensors as 0-d; raise unless both are floats or both tensors, within [0, 1)."""
    pair = pair_of_betas(betas)
    if len({isinstance(beta, Tensor) for beta in pair}) > 1 or not all(isinstance(b, (float, Tensor)) for b in pair):
        raise ValueError(f"betas must be either both floats or both Tensors, but are {found(betas)}")
    for i, beta in enumerate(pair):
        if isinstance(beta, Tensor):
            if foreach and not capturable:
                raise ValueError(
                    f"betas[{i}] as a Tensor is not supported for capturable=False and foreach=True; leave foreach "
                    "out, or pass floats"
                )
            if beta.numel() != 1:
                raise ValueError(f"Tensor betas[{i}] must be 1-element, but has shape {tuple(beta.shape)}")
    return (_scalar(pair[0]), _scalar(pair[1]))


def bounds(name: str, pair: Any) -> None:
    """Raise unless an argument is two numbers, 0 or more, the lower one first."""
    must = f"{name} must be two numbers, 0 or more, such as (0, 10)"
    with naming(name, pair, must):
        low, high = pair
        fits = bool(0 <= low <= high)
    if not fits:
        raise ValueError(f"Invalid {name}: {found(pair)}; {must}")


def nesterov(nesterov: bool, momentum: Any, dampening: Any) -> None:
    """Raise `ValueError` for Nesterov's momentum without momentum, or with dampening."""
    if nesterov and (momentum <= 0 or dampening != 0):
        raise ValueError(
            f"Nesterov momentum requires a momentum and zero dampening, but momentum={momentum}, dampening={dampening}"
        )


def one_implementation(foreach: bool | None, fused: bool | None, differentiable: bool) -> None:
    """Raise `RuntimeError` where `fused=True` contradicts another choice."""
    if fused and differentiable:
        raise RuntimeError("`fused` does not support `differentiable`; leave one of them out")
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together. Leave one of them out.")


def _check(label: str, value: Any, must: str, below: float = float("inf")) -> None:
    # The comparison is torch's, and so are the types that it takes and the errors that it raises.
    with naming(label, value, must):
        fits = bool(value >= 0.0) and (below == float("inf") or bool(value < below))
    if not fits:
        raise ValueError(f"Invalid {label}: {value}; {must}")


def _scalar(value: float | Tensor) -> float | Tensor:
    return value.squeeze() if isinstance(value, Tensor) and value.dim() != 0 else value
