"""Every optimizer described once: its counterpart in torch, and the options it is tested with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import layer_references
import references
import torch

import torch_gd

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """One optimizer with one set of options, and its counterpart in torch, which must give the same values."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    reference_options: dict[str, Any] | None = None  # if the counterpart in torch takes other options
    triton_only: bool = False  # whether torch itself supports the options on a GPU only
    dtypes: tuple[torch.dtype, ...] = DTYPES

    def ours(self, params: Any, **more: Any) -> torch.optim.Optimizer:
        """Return our optimizer; `more` overrides the options of the case."""
        options = {key: on_params_device(params, value) for key, value in self.options.items()}
        return getattr(torch_gd, self.name)(params, **{**options, **more})

    def reference(self, params: Any, **more: Any) -> torch.optim.Optimizer:
        """Return the counterpart in torch, without `fused` and `capturable` unless `more` names them."""
        options = self.options if self.reference_options is None else self.reference_options
        options = {key: value for key, value in options.items() if key not in ("fused", "capturable")}
        return torch_class(self.name)(params, **{**options, **more})

    @property
    def takes_fused(self) -> bool:
        """Return whether the optimizer takes `fused`."""
        return "fused" in signature(getattr(torch_gd, self.name).__init__).parameters

    def __str__(self) -> str:
        return self.name + "".join(f"-{key}={value}" for key, value in self.options.items())


def torch_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Return the class in torch that corresponds to one of ours, or the one written here; for NAG it is SGD."""
    written = getattr(references, name, None) or getattr(layer_references, name, None)
    return torch.optim.SGD if name == "NAG" else written or getattr(torch.optim, name)


def tensor(value: float) -> torch.Tensor:
    """Return a hyperparameter as a float64 tensor, since torch computes with a tensor in the tensor's precision."""
    return torch.tensor(value, dtype=torch.float64)


def on_params_device(params: Any, value: Any) -> Any:
    """Return a hyperparameter; move a tensor to the parameters' device, where our step must not read it back."""
    if isinstance(value, tuple):
        return tuple(on_params_device(params, one) for one in value)
    if not isinstance(value, torch.Tensor) or not isinstance(params, list):
        return value
    first = params[0]["params"] if isinstance(params[0], dict) else params
    return value.to(first[0].device)


# L2 decay can cancel a gradient down to its rounding error. With torch's default eps, the sign of that error would then
# decide the whole update.
EPS = 1e-3
BOUNDED = {"adam_w_mode": False, "phi": (0.5, 3.0), "max_trust": 2.0, "eps": EPS}
# Rows that differ from another one in options alone, which the dtype does not change: not all need all dtypes.
ONE = (torch.float32,)

CASES = [
    Case("SGD"),
    Case("SGD", {"weight_decay": 0.1, "maximize": True}, dtypes=ONE),
    Case("SGD", {"momentum": 0.9, "dampening": 0.3}),
    Case("SGD", {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}, dtypes=ONE),
    Case("SGD", {"momentum": 0.8, "fused": True}, dtypes=ONE),
    Case("NAG", {}, {"momentum": 0.9, "nesterov": True}),
    Case(
        "NAG",
        {"momentum": 0.7, "weight_decay": 0.1, "maximize": True},
        {"momentum": 0.7, "weight_decay": 0.1, "maximize": True, "nesterov": True},
        dtypes=ONE,
    ),
    Case("Adagrad"),
    Case("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "eps": EPS}, dtypes=ONE),
    Case("Adagrad", {"initial_accumulator_value": 0.2, "eps": 1e-3, "maximize": True, "fused": True}, dtypes=ONE),
    Case("RMSprop"),
    Case("RMSprop", {"momentum": 0.9, "weight_decay": 0.1, "eps": EPS}, dtypes=ONE),
    Case("RMSprop", {"centered": True, "alpha": 0.9}, dtypes=ONE),
    Case("RMSprop", {"centered": True, "momentum": 0.5, "maximize": True, "eps": 1e-3}),
    Case("RMSprop", {"momentum": 0.9, "capturable": True}, triton_only=True, dtypes=ONE),
    Case("Adam"),
    Case("Adam", {"weight_decay": 0.1, "amsgrad": True, "eps": EPS}),
    Case("Adam", {"betas": (0.0, 0.9), "maximize": True}, dtypes=ONE),
    Case("Adam", {"lr": tensor(0.01)}, dtypes=ONE),
    Case("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}, dtypes=ONE),
    Case("Adam", {"amsgrad": True, "capturable": True}, triton_only=True, dtypes=ONE),
    Case("AdamW"),
    Case("AdamW", {"amsgrad": True, "weight_decay": 0.1}, dtypes=ONE),
    Case("AdamW", {"betas": (0.3, 0.99), "eps": 1e-4, "maximize": True}, dtypes=ONE),
    Case("AdamW", {"betas": (tensor(0.9), tensor(0.999))}, dtypes=ONE),
    Case("AdamW", {"fused": True}, dtypes=ONE),
    Case("AdamW", {"lr": tensor(0.01), "fused": True}, dtypes=ONE),
    Case("SGDW", {"weight_decay": 0.1, "maximize": True}, dtypes=ONE),
    Case("SGDW", {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    Case("Adadelta", {"weight_decay": 0.1, "eps": EPS}),
    Case("Adadelta", {"rho": 0.5, "maximize": True, "capturable": True}, triton_only=True, dtypes=ONE),
    Case("Adamax", {"weight_decay": 0.1, "eps": EPS}),
    Case("Adamax", {"betas": (0.5, 0.9), "maximize": True, "capturable": True}, triton_only=True, dtypes=ONE),
    Case("NAdam", {"weight_decay": 0.1, "eps": EPS, "maximize": True}),
    Case("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.5}, dtypes=ONE),
    Case("NAdam", {"capturable": True}, triton_only=True, dtypes=ONE),
    Case("RAdam", {"weight_decay": 0.1, "eps": EPS, "maximize": True}),
    Case("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "betas": (0.9, 0.6)}, dtypes=ONE),
    # In float64, RAdam's rectification is a small difference of large numbers, which torch derives by another power.
    Case("RAdam", {"capturable": True}, triton_only=True, dtypes=ONE),
    Case("Lion", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    Case("LAMB"),
    Case(
        "LAMB", {"decoupled_weight_decay": True, "always_adapt": False, "lr": tensor(0.01), "fused": True}, dtypes=ONE
    ),
    Case("LAMB", {**BOUNDED, "bias_correction": False, "grad_averaging": False, "maximize": True}, dtypes=ONE),
    Case("LARS"),
    Case("LARS", {"momentum": 0.0, "weight_decay": 0.0, "always_adapt": False, "lr": tensor(0.1)}, dtypes=ONE),
    Case("LARS", {"nesterov": True, "lr_in_momentum": False, "trust_clip": True, "maximize": True}, dtypes=ONE),
]

# For tests in which the options do not matter: a case of each optimizer, and of those that came later of the one that
# takes a way of its own.
PLAIN_CASES = [
    Case("SGD"),
    Case("SGD", {"momentum": 0.9, "weight_decay": 0.01}),
    Case("NAG", {}, {"momentum": 0.9, "nesterov": True}),
    Case("Adagrad"),
    Case("RMSprop", {"momentum": 0.9, "centered": True}),
    Case("Adam", {"amsgrad": True}),
    Case("AdamW"),
    Case("NAdam"),  # which has a product beside its counter
]
# Layer-wise ones, for tests to which it matters that the step of each tensor takes three launches.
LAYERWISE = [Case("LAMB"), Case("LARS")]
