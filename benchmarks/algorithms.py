"""What is compared: each optimizer with typical options, as this package, torch and others have it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch

import torch_gd

Make: TypeAlias = Callable[[list[torch.Tensor]], torch.optim.Optimizer]
LR = 1e-3


@dataclass(frozen=True)
class Algorithm:
    """One row of every table.

    Args:
        label: its name in tables.
        name: the class, here and (unless `torch_name` differs) in torch.optim.
        states: tensors of the parameter's size that it keeps.
        options: constructor arguments.
        torch_options: torch's, where they differ.
    """

    label: str
    name: str
    states: int
    options: dict[str, Any] = field(default_factory=dict)
    torch_options: dict[str, Any] | None = None

    @property
    def torch_name(self) -> str:
        return "SGD" if self.name == "NAG" else self.name

    @property
    def least_accesses(self) -> int:
        """Reads of parameter, gradient and states, writes of parameter and states, an element."""
        return 3 + 2 * self.states

    def ours(self, params: list[torch.Tensor]) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = getattr(torch_gd, self.name)(params, lr=LR, **self.options)
        return made

    def torchs(self, **flags: bool) -> Make:
        """A maker of torch's own; `flags` choose fused, foreach or for-loop."""
        options = self.options if self.torch_options is None else self.torch_options
        cls = getattr(torch.optim, self.torch_name)
        return lambda params: cls(params, lr=LR, **options, **flags)

    def torch_fuses(self, device: torch.device) -> bool:
        """Whether torch has it fused there: RMSprop nowhere, Adagrad on a GPU not in every version."""
        p = torch.zeros(1, device=device, requires_grad=True)
        p.grad = torch.zeros_like(p)
        try:
            self.torchs(fused=True)([p]).step()
        except (RuntimeError, TypeError):
            return False
        return True


ALGORITHMS = [
    Algorithm("SGD", "SGD", 0),
    Algorithm("SGD momentum", "SGD", 1, {"momentum": 0.9}),
    Algorithm("NAG", "NAG", 1, {}, {"momentum": 0.9, "nesterov": True}),
    Algorithm("Adagrad", "Adagrad", 1),
    Algorithm("RMSprop", "RMSprop", 1),
    Algorithm("Adam", "Adam", 2),
    Algorithm("AdamW", "AdamW", 2),
]
BY_LABEL = {algorithm.label: algorithm for algorithm in ALGORITHMS}

# Package: where its classes are, and by algorithm the class and what to call it with for full-precision states.
OTHERS: dict[str, tuple[str, dict[str, tuple[str, dict[str, Any]]]]] = {
    "bitsandbytes": (
        "bitsandbytes.optim",
        {
            "SGD momentum": ("SGD32bit", {"momentum": 0.9}),
            "Adagrad": ("Adagrad32bit", {}),
            "RMSprop": ("RMSprop32bit", {}),
            "Adam": ("Adam32bit", {}),
            "AdamW": ("AdamW32bit", {}),
        },
    ),
    "apex": (
        "apex.optimizers",
        {
            "SGD": ("FusedSGD", {}),
            "SGD momentum": ("FusedSGD", {"momentum": 0.9}),
            "NAG": ("FusedSGD", {"momentum": 0.9, "nesterov": True}),
            "Adagrad": ("FusedAdagrad", {}),
            "Adam": ("FusedAdam", {"adam_w_mode": False}),
            "AdamW": ("FusedAdam", {"adam_w_mode": True, "weight_decay": 0.01}),
        },
    ),
    "flashoptim": (
        "flashoptim",
        {
            "SGD momentum": ("FlashSGD", {"momentum": 0.9, "quantize": False, "master_weight_bits": None}),
            "Adam": ("FlashAdam", {"quantize": False, "master_weight_bits": None}),
            "AdamW": ("FlashAdamW", {"quantize": False, "master_weight_bits": None}),
        },
    ),
    "torch-optimi": (
        "optimi",
        {
            "SGD": ("SGD", {"triton": True, "kahan_sum": False}),
            "SGD momentum": ("SGD", {"momentum": 0.9, "triton": True, "kahan_sum": False}),
            "Adam": ("Adam", {"triton": True, "kahan_sum": False}),
            "AdamW": ("AdamW", {"triton": True, "kahan_sum": False}),
        },
    ),
}


def installed(package: str) -> bool:
    """Whether a package of `OTHERS` is here."""
    return find_spec(OTHERS[package][0].split(".")[0]) is not None


def others(algorithm: Algorithm) -> dict[str, Make]:
    """Makers of what other installed packages have of an algorithm."""
    found = {}
    for package, (module, classes) in OTHERS.items():
        if installed(package) and algorithm.label in classes:
            name, options = classes[algorithm.label]
            found[package] = _maker(module, name, options)
    return found


def _maker(module: str, name: str, options: dict[str, Any]) -> Make:
    # Imported when called: an installed package can still fail to import, and is then reported like any failure.
    return lambda params: getattr(import_module(module), name)(params, lr=LR, **options)
