"""The optimizers that are compared: ours, torch's or timm's, and other packages', each with typical options."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any, TypeAlias

import torch

import torch_gd

from .report import one_line

Make: TypeAlias = Callable[[list[torch.Tensor]], torch.optim.Optimizer]
LR = 1e-3
LARS = {"momentum": 0.9, "weight_decay": 5e-4}  # our defaults, where timm's are 0
# What chooses each implementation of torch's or timm's, in the order of the tables.
FLAGS: dict[str, dict[str, bool]] = {
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
        name: the class in torch_gd.
        states: how many tensors of the parameter's size it keeps for each parameter.
        options: constructor arguments.
        their_options: constructor arguments of its counterpart, where they differ.
        library: whose class is the counterpart: torch's, or timm's where torch has none.
        their_name: name of that class, where it differs.
        measured: accesses to memory for an element by a layer-wise step as it measures, beyond an element-wise step's.
        dtype: that of the parameters that it is for; None for any.
        moved: bytes that a step must read and write for an element; None if all tensors are of the parameter's dtype.
    """

    label: str
    name: str
    states: int
    options: dict[str, Any] = field(default_factory=dict)
    their_options: dict[str, Any] | None = None
    library: str = "torch"
    their_name: str = ""
    measured: int = 0
    dtype: torch.dtype | None = None
    moved: float | None = None

    def least_bytes(self, dtype: torch.dtype) -> float:
        """Return the fewest bytes that a step reads and writes for an element of a parameter."""
        return dtype.itemsize * self.least_accesses if self.moved is None else self.moved

    @property
    def least_accesses(self) -> int:
        """Return the fewest accesses to memory for an element: all tensors are read, all but the gradient written."""
        return 3 + 2 * self.states + self.measured

    def ours(self, params: list[torch.Tensor]) -> torch.optim.Optimizer:
        """Return our optimizer over these parameters."""
        made: torch.optim.Optimizer = getattr(torch_gd, self.name)(params, lr=LR, **self.options)
        return made

    def theirs(self, **flags: bool) -> Make:
        """Return what makes the counterpart; `flags` choose fused, foreach or for-loop."""
        options = self.options if self.their_options is None else self.their_options
        cls = self._their_class()
        return lambda params: cls(params, lr=LR, **options, **flags)

    def _their_class(self) -> Any:
        name = self.their_name or self.name
        return getattr(import_module("torch.optim" if self.library == "torch" else f"timm.optim.{name.lower()}"), name)

    def has(self, implementation: str, device: torch.device) -> bool:
        """Return whether the counterpart has a key of `FLAGS`. Adagrad's fused step runs on a GPU in some versions."""
        if not FLAGS[implementation].keys() <= signature(self._their_class()).parameters.keys():
            return False
        if implementation != "fused":
            return True
        p = torch.zeros(1, device=device, requires_grad=True)
        p.grad = torch.zeros_like(p)
        try:
            self.theirs(fused=True)([p]).step()
        except (RuntimeError, TypeError):
            return False
        return True

    def makers(self, device: torch.device, *names: str) -> dict[str, Make]:
        """Return what makes ours, and its counterpart in each implementation that it has.

        Args:
            device: where the parameters are.
            names: keys of `FLAGS`. Default: all. A counterpart with one implementation only is taken in any case.

        Returns:
            Makers by name: "ours", "torch fused" and so on, "timm" for a counterpart with one implementation.
        """
        if self.library == "timm" and why_no_timm():
            return {"ours": self.ours}
        there = [name for name in names or FLAGS if self.has(name, device)]
        if there in ([], ["default"]):
            return {"ours": self.ours, self.library: self.theirs()}
        return {"ours": self.ours} | {f"{self.library} {name}": self.theirs(**FLAGS[name]) for name in there}


ALGORITHMS = [
    Algorithm("SGD", "SGD", 0),
    Algorithm("SGD momentum", "SGD", 1, {"momentum": 0.9}),
    Algorithm("NAG", "NAG", 1, {}, {"momentum": 0.9, "nesterov": True}, their_name="SGD"),
    Algorithm("Adagrad", "Adagrad", 1),
    Algorithm("RMSprop", "RMSprop", 1),
    Algorithm("Adam", "Adam", 2),
    Algorithm("AdamW", "AdamW", 2),
    Algorithm("Adadelta", "Adadelta", 2),
    Algorithm("Adamax", "Adamax", 2),
    Algorithm("NAdam", "NAdam", 2),
    Algorithm("RAdam", "RAdam", 2),
    Algorithm("Lion", "Lion", 1, {"weight_decay": 0.01}, library="timm"),
    Algorithm("SGDW", "SGDW", 1, {"momentum": 0.9, "weight_decay": 0.01}, library="timm"),
    # timm's Lamb clips by itself unless told not to, and both adapt no tensor without decay.
    Algorithm("LAMB", "LAMB", 2, {}, {"max_grad_norm": None, "always_adapt": True}, "timm", "Lamb", measured=3),
    Algorithm("LARS", "LARS", 1, {}, LARS | {"always_adapt": True}, "timm", "Lars", measured=2),
]


def _stored(weights: str, states: str, moved: float) -> Algorithm:
    precision = {"precision": torch_gd.Precision(weights, states)}
    label = f"AdamW {weights}, {states}"
    return Algorithm(label, "AdamW", 2, precision, {}, dtype=torch.bfloat16, moved=moved)


# Beside them torch steps plain bfloat16.
LOW_PRECISION = [
    _stored("bf16+16", "float32", 26.0),
    _stored("bf16+8", "bf16", 16.0),
    _stored("bf16+8", "8bit", 12.5),
]
BY_LABEL = {algorithm.label: algorithm for algorithm in ALGORITHMS}

# For each package: the module of its classes, and for each algorithm the class and the arguments that keep its states
# in full precision, or in that of the label.
OTHERS: dict[str, tuple[str, dict[str, tuple[str, dict[str, Any]]]]] = {
    "bitsandbytes": (
        "bitsandbytes.optim",
        {
            "SGD momentum": ("SGD32bit", {"momentum": 0.9}),
            "Adagrad": ("Adagrad32bit", {}),
            "RMSprop": ("RMSprop32bit", {}),
            "Adam": ("Adam32bit", {}),
            "AdamW": ("AdamW32bit", {}),
            "AdamW bf16+8, 8bit": ("AdamW8bit", {}),
        },
    ),
    "torchao": ("torchao.optim", {"AdamW bf16+8, 8bit": ("AdamW8bit", {"bf16_stochastic_round": True})}),
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
            "AdamW bf16+16, float32": ("FlashAdamW", {"quantize": False, "master_weight_bits": 32}),
            "AdamW bf16+8, 8bit": ("FlashAdamW", {"quantize": True, "master_weight_bits": 24}),
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


@cache
def why_no_timm() -> str:
    """Return why timm's optimizers cannot be compared with, or nothing."""
    if find_spec("timm") is None:
        return "not installed"
    try:
        import_module("timm.optim")
    except Exception as error:  # it imports a torchvision, which may not fit this torch
        return one_line(error)
    return ""


def without_timm() -> str:
    """Return a sentence to follow results, if some have no counterpart; else nothing."""
    return f" Skipped: timm ({why})." if (why := why_no_timm()) else ""


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
