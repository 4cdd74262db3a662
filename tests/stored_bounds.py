"""How far what is stored may be from what was computed, and the modes of `torch_gd.Precision` that tests run over."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_gd import Precision
from torch_gd._engine.encoding import Column, decode

SIGNED = ("exp_avg", "momentum_buffer", "acc_delta")  # of a state with another name no value is negative


@dataclass(frozen=True)
class Mode:
    """A precision, and the dtype of the parameters that it is for."""

    precision: Precision
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.precision.weights or str(self.dtype)[6:]},{self.precision.states}"


BF16, FP32 = torch.bfloat16, torch.float32
MODES = [
    Mode(Precision("bf16+16", min_elements=32), BF16),
    Mode(Precision("bf16+8", "bf16", min_elements=32), BF16),
    Mode(Precision("bf16+8", "8bit", min_elements=32), BF16),
    Mode(Precision("stochastic", "8bit", min_elements=32), BF16),
    Mode(Precision("stochastic", "bf16", min_elements=32), torch.float16),
    Mode(Precision(None, "8bit", min_elements=32), FP32),
]


def columns_of(optimizer: Any, p: Tensor) -> list[tuple[Column, list[Tensor]]]:
    """Return the columns of a parameter and its states, by what lies in the state, each with its tensors."""
    state = optimizer.state.get(p, {})
    rest = state.get("remainder")
    kind = "plain" if rest is None else "split16" if rest.dtype == torch.int16 else "split8"
    if rest is None and p.dtype in (BF16, torch.float16):
        kind = "stochastic"
    found = [(Column("", kind), [p.detach(), *([] if rest is None else [rest])])]
    negative = optimizer.spec(next(g for g in optimizer.param_groups if any(q is p for q in g["params"])))
    for name in negative.state_names:
        unsigned = name in negative.non_negative
        if f"{name}_code" in state:
            column = Column(name, "unsigned8" if unsigned else "signed8", torch.int8)
            found.append((column, [state[key] for key in column.stored]))
        elif isinstance(state.get(name), Tensor):
            stochastic = unsigned and state[name].dtype == BF16
            found.append((Column(name, "stochastic" if stochastic else "plain"), [state[name]]))
    return found


def stored_values(optimizer: Any, p: Tensor) -> dict[str, Tensor]:
    """Return in float32 what is stored of a parameter, under "", and of its states."""
    return {column.name: decode(column, stored) for column, stored in columns_of(optimizer, p)}


def limit(optimizer: Any, p: Tensor, name: str, value: Tensor) -> Tensor:
    """Return how far a number that is stored may be from what it was, by the codec of its column."""
    column, stored = next(one for one in columns_of(optimizer, p) if one[0].name == name)
    x = value.abs()
    if column.kind == "split16" or stored[0].dtype == FP32:
        return torch.zeros_like(x)
    if column.kind == "split8":
        return x * 2.0**-16
    if column.kind in ("plain", "stochastic"):  # half an ulp, or one
        dtype = torch.finfo(stored[0].dtype)
        return (x * (0.5 if column.kind == "plain" else 1) + dtype.smallest_normal) * dtype.eps
    # Noise moves a root by less than a scale. The largest that there was may have been larger than what is compared, by
    # an arithmetic that is good to 2⁻²⁰.
    each = stored[1].cpu().repeat_interleave(32, -1).reshape(x.shape) * (1 + 2.0**-18)
    if column.kind == "signed8":
        return 2 * each * x.sqrt() + each**2
    return (x**0.25 + each) ** 4 - x


SHAPES = [(4, 32), (7,)]  # the last is too small, and does not divide into groups


def weights(dtype: torch.dtype, device: torch.device, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


def give_gradients(params: list[Tensor], step: int) -> None:
    """Give random gradients, in half precision and of very different sizes."""
    generator = torch.Generator().manual_seed(step + 1)
    for p in params:
        sizes = torch.exp(2 * torch.randn(p.shape, generator=generator))
        p.grad = (torch.randn(p.shape, generator=generator) * sizes).to(BF16).to(p.device, p.dtype)


def gradient(p: Tensor) -> Tensor:
    """Return a parameter's gradient in float32, on the CPU."""
    assert p.grad is not None
    return p.grad.float().cpu()
