"""Bytes that AdamW keeps of each parameter: ours and torch's counted from tensors, others' read in their sources."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

import torch_gd
from torch_gd import Precision


class Footprint(NamedTuple):
    """What lies in memory for each element of a large tensor, in bytes.

    Args:
        package: whose optimizer it is.
        setting: how it is set.
        weight: the parameter, and what is kept of it beside.
        states: both moments, scales included.
        gradient: in the parameter's dtype.
        source: the file that says so, and its version; empty where it is counted.
    """

    package: str
    setting: str
    weight: float
    states: float
    gradient: float
    source: str = ""

    @property
    def total(self) -> float:
        """Return the sum."""
        return self.weight + self.states + self.gradient


MODES: dict[str, tuple[torch.dtype, Precision | None]] = {
    "float32": (torch.float32, None),
    "bf16+16, float32": (torch.bfloat16, Precision("bf16+16", "float32")),
    "bf16+16, bf16": (torch.bfloat16, Precision("bf16+16", "bf16")),
    "bf16+8, bf16": (torch.bfloat16, Precision("bf16+8", "bf16")),
    "bf16+8, 8bit": (torch.bfloat16, Precision("bf16+8", "8bit")),
    "stochastic, bf16": (torch.bfloat16, Precision("stochastic", "bf16")),
    "stochastic, 8bit": (torch.bfloat16, Precision("stochastic", "8bit")),
    "float32, 8bit": (torch.float32, Precision(None, "8bit")),
    "plain bf16": (torch.bfloat16, None),
}

_OPTIMI = "optimi/adam.py, torch-optimi 0.3.3 (02d8e75)"
_TORCHAO = "torchao/optim/adam.py and subclass_8bit.py, pytorch/ao (0372e5f, 0196250)"
_BITSANDBYTES = "bitsandbytes/optim/optimizer.py (51294d9)"
_FLASHOPTIM = "flashoptim/optimizers.py, flashoptim 0.1.4 (1b1f153)"
_ENGINE = "transformer_engine/pytorch/optimizers/fused_adam.py (04912bf)"
# What each source allocates: `zeros_like`, codes of a byte, and a scale for a block of so many elements.
OTHERS = [
    Footprint("torch-optimi", "bf16, Kahan summation", 2 + 2, 2 + 2, 2, _OPTIMI),
    Footprint("torchao", "AdamW8bit, bf16 stochastic", 2, 2 * (1 + 4 / 256), 2, _TORCHAO),
    Footprint("torchao", "AdamW8bit, float32", 4, 2 * (1 + 4 / 256), 4, _TORCHAO),
    Footprint("bitsandbytes", "AdamW8bit, bf16", 2, 2 * (1 + 4 / 256), 2, _BITSANDBYTES),
    Footprint("bitsandbytes", "AdamW8bit, float32", 4, 2 * (1 + 4 / 256), 4, _BITSANDBYTES),
    Footprint("flashoptim", "24 bits", 2 + 1, 2 * (1 + 2 / 32), 2, _FLASHOPTIM),
    Footprint("flashoptim", "32 bits", 2 + 2, 2 * (1 + 2 / 32), 2, _FLASHOPTIM),
    Footprint("TransformerEngine", "float32 master weights", 2 + 4, 8, 2, _ENGINE),
    Footprint("TransformerEngine", "remainders", 2 + 2, 8, 2, _ENGINE),
    Footprint("TransformerEngine", "remainders, bf16 moments", 2 + 2, 4, 2, _ENGINE),
]


def counted(package: str, setting: str, dtype: torch.dtype, make: Callable[[list[torch.Tensor]], Any]) -> Footprint:
    """Return what an optimizer keeps of a large tensor, counted from its state after a step."""
    p = torch.ones(128, 128, dtype=dtype).requires_grad_()
    p.grad = torch.ones_like(p)
    optimizer = make([p])
    optimizer.step()
    state = {name: value for name, value in optimizer.state[p].items() if name != "step"}
    rest = state.pop("remainder", None)
    weight = p.nbytes + (0 if rest is None else rest.nbytes)
    states = sum(value.nbytes for value in state.values())
    return Footprint(package, setting, weight / p.numel(), states / p.numel(), p.grad.nbytes / p.numel())


def footprints() -> list[Footprint]:
    """Return a row for each package and setting."""
    rows = [
        counted("torch_gd", name, dtype, partial(torch_gd.AdamW, precision=how)) for name, (dtype, how) in MODES.items()
    ]
    rows += [
        counted("torch", name, dtype, torch.optim.AdamW)
        for name, dtype in (("float32, also under autocast", torch.float32), ("bf16", torch.bfloat16))
    ]
    master = rows[-1]._replace(setting="bf16 and float32 master weights", weight=2 + 4.0, states=8.0)
    return [*rows, master._replace(source="weights of 2 bytes, copies and moments of 4"), *OTHERS]
