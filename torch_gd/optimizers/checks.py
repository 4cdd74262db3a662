"""Checks of constructor arguments: torch's error types, with the argument's name and what it may be."""

from typing import Any

from torch import Tensor


def not_negative(**arguments: float | Tensor) -> None:
    """Raise `ValueError` for an argument below zero or NaN."""
    for name, value in arguments.items():
        if not value >= 0.0:
            raise ValueError(f"Invalid {name}: {value}; it must be 0 or more")


def learning_rate(lr: float | Tensor, foreach: bool | None = None, capturable: bool = True) -> None:
    """Raise `ValueError` for a learning rate that is negative, NaN, or a tensor where none can be used."""
    if isinstance(lr, Tensor):
        if foreach and not capturable:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        if lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, but has shape {tuple(lr.shape)}")
    if not lr >= 0.0:
        raise ValueError(f"Invalid learning rate: lr={lr}; it must be 0 or more")


def betas(betas: tuple[Any, Any], foreach: bool | None, capturable: bool) -> tuple[float | Tensor, float | Tensor]:
    """Return both betas, tensors as 0-d; raise `ValueError` unless both are floats or both tensors, within [0, 1)."""
    for i, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: betas[{i}]={beta}; it must be in [0, 1)")
    if len({isinstance(beta, Tensor) for beta in betas}) > 1 or not all(isinstance(b, (float, Tensor)) for b in betas):
        raise ValueError("betas must be either both floats or both Tensors")
    for i, beta in enumerate(betas):
        if isinstance(beta, Tensor):
            if foreach and not capturable:
                raise ValueError(f"betas[{i}] as a Tensor is not supported for capturable=False and foreach=True")
            if beta.numel() != 1:
                raise ValueError(f"Tensor betas[{i}] must be 1-element, but has shape {tuple(beta.shape)}")
    return (_scalar(betas[0]), _scalar(betas[1]))


def one_implementation(foreach: bool | None, fused: bool | None, differentiable: bool) -> None:
    """Raise `RuntimeError` where `fused=True` contradicts another choice."""
    if fused and differentiable:
        raise RuntimeError("`fused` does not support `differentiable`")
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def _scalar(value: float | Tensor) -> float | Tensor:
    return value.squeeze() if isinstance(value, Tensor) and value.dim() != 0 else value
