"""What the engine asks of a clip policy. The policies themselves are in `torch_gd.clipping`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor


class StepInputs(NamedTuple):
    """What a step is told of the gradients on one device.

    Args:
        grad_scale: what `torch.amp.GradScaler` wants gradients divided by.
        found_inf: where it holds a value other than zero, the step is left out.
        coefficient: what gradients are multiplied by, once they have been divided by `grad_scale`.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    coefficient: Tensor | None = None


InputsByDevice: TypeAlias = dict[torch.device, StepInputs]


class KernelClip(NamedTuple):
    """What our kernels do to gradients as they read them, besides multiplying by a measured coefficient.

    Args:
        clip_value: the bound that each element is clamped to; None for no bound.
        units: the two limits of adaptive clipping, `clipping` and `eps`; None for none.
    """

    clip_value: float | None = None
    units: tuple[float, float] | None = None


def measures(clip: "Clip | None") -> bool:
    """Return whether a policy measures all gradients before the update."""
    return clip is not None and clip.in_kernel() == KernelClip()


def unit_limits(clip: "Clip | None") -> tuple[float, float] | None:
    """Return the limits of a policy that clips each unit by its own norm; None for any other."""
    in_kernel = None if clip is None else clip.in_kernel()
    return None if in_kernel is None else in_kernel.units


class GradientBatch(Protocol):
    """A batch as a policy sees it when it measures gradients."""

    grads: list[Tensor]

    @property
    def device(self) -> torch.device:
        """Return the device of all parameters."""

    def partial_sums(self) -> Any:
        """Return the kernels' partial sums over the gradients (`measure.Partials`); None without kernels."""


class Clip(Protocol):
    """A clip policy, as the engine calls it."""

    skip_nonfinite: bool

    def in_kernel(self) -> KernelClip | None:
        """Return what our kernels are to do; None if the policy is a pass over the gradients before the update."""

    def measure_first(
        self, batches: Sequence[GradientBatch], results: dict[torch.device, Tensor]
    ) -> Callable[[InputsByDevice], InputsByDevice] | None:
        """Return a function that measures all gradients and adds coefficients to a step's inputs, or None."""

    def apply(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Change gradients in place."""
