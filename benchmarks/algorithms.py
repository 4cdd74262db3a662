"""The optimizers that are compared: ours, torch's and other packages', each with typical options."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch

import torch_gd

Make: TypeAlias = Callable[[list[torch.Tensor]], torch.optim.Optimizer]
LR = 1e-3
# What chooses each of torch's implementations, in the order of the tables.
TORCH_FLAGS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False},
    "default": {},
}


@dataclass(frozen=True)
class Algorithm:
    """An optimizer with its options: one row of every table.

    Args:
        label: its name in tables.
        name: the class in torch_gd and, unless `torch_name` differs, in torch.optim.
        states: how many tensors of the parameter's size it keeps for each parameter.
        options: constructor arguments.
        torch_options: constructor arguments of torch's class, where they differ.
    """

    label: str
    name: str
    states: int
    options: dict[str, Any] = field(default_factory=dict)
    torch_options: dict[str, Any] | None = None

    @property
    def torch_name(self) -> str:
        """Return the name of torch's class."""
        return "SGD" if self.name == "NAG" else self.name

    @property
    def least_accesses(self) -> int:
        """Return the fewest accesses to memory for an element: all tensors are read, all but the gradient written."""
        return 3 + 2 * self.states

    def ours(self, params: list[torch.Tensor]) -> torch.optim.Optimizer:
        """Return our optimizer over these parameters."""
        made: torch.optim.Optimizer = getattr(torch_gd, self.name)(params, lr=LR, **self.options)
        return made

    def torchs(self, **flags: bool) -> Make:
        """Return what makes torch's optimizer; `flags` choose fused, foreach or for-loop."""
        options = self.options if self.torch_options is None else self.torch_options
        cls = getattr(torch.optim, self.torch_name)
        return lambda params: cls(params, lr=LR, **options, **flags)

    def torch_fuses(self, device: torch.device) -> bool:
        """Return whether torch has a fused step there. RMSprop has none; Adagrad's runs on a GPU in some versions."""
        p = torch.zeros(1, device=device, requires_grad=True)
        p.grad = torch.zeros_like(p)
        try:
            self.torchs(fused=True)([p]).step()
        except (RuntimeError, TypeError):
            return False
        return True

    def makers(self, device: torch.device, *torchs: str) -> dict[str, Make]:
        """Return what makes ours and each of torch's implementations that are named, fused only where there is one.

        Args:
            device: where the parameters are.
            torchs: keys of `TORCH_FLAGS`. Default: all.
        """
        names = [name for name in torchs or TORCH_FLAGS if name != "fused" or self.torch_fuses(device)]
        return {"ours": self.ours} | {name: self.torchs(**TORCH_FLAGS[name]) for name in names}


ALGORITHMS = [
    Algorithm("SGD", "SGD", 0),
    Algorithm("SGD momentum", "SGD", 1, {"momentum": 0.9}),
    Algorithm("NAG", "NAG", 1, {}, {"momentum": 0.9, "nesterov": True}),
    Algorithm("Adagrad", "Adagrad", 1),
    Algorithm("RMSprop", "RMSprop", 1),
    Algorithm("Adam", "Adam", 2),
    Algorithm("AdamW", "AdamW", 2),
    Algorithm("Adadelta", "Adadelta", 2),
    Algorithm("Adamax", "Adamax", 2),
    Algorithm("NAdam", "NAdam", 2),
    Algorithm("RAdam", "RAdam", 2),
]
BY_LABEL = {algorithm.label: algorithm for algorithm in ALGORITHMS}

# For each package: the module of its classes, and for each algorithm the class and the arguments that keep its states
# in full precision.
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
            "RAdam": ("RAdam", {"triton": True, "kahan_sum": False}),
        },
    ),
}


def installed(package: str) -> bool:
    """Return whether a package of `OTHERS` is installed."""
    return find_spec(OTHERS[package][0].split(".")[0]) is not None


def others(algorithm: Algorithm) -> dict[str, Make]:
    """Return what makes an algorithm in each other package that is installed and has it."""
    found = {}
    for package, (module, classes) in OTHERS.items():
        if installed(package) and algorithm.label in classes:
            name, options = classes[algorithm.label]
            found[package] = _maker(module, name, options)
    return found


def _maker(module: str, name: str, options: dict[str, Any]) -> Make:
    # The import waits for the call: an installed package that fails to import is then reported like any failure.
    return lambda params: getattr(import_module(module), name)(params, lr=LR, **options)
