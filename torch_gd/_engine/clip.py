"""What the engine asks of a clip policy. The policies themselves are in `torch_gd.clipping`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias
from weakref import ref

import torch
from torch import Tensor

from .ranks import ProcessGroups


class CutCoefficients(NamedTuple):
    """What adaptive clipping multiplies units by of which each rank holds a part.

    Args:
        values: a coefficient for each unit; float64, 1-d.
        firsts: by the id of a parameter's shard, where its first unit's coefficient is.
    """

    values: Tensor
    firsts: Mapping[int, int]

    def of(self, p: Tensor) -> Tensor | None:
        """Return the coefficients of a shard's units, in a shape that broadcasts with it; None if none is cut."""
        first = self.firsts.get(id(p))
        if first is None or p.dim() <= 1:
            return None if first is None else self.values[first]
        return self.values[first : first + len(p)].reshape(-1, *[1] * (p.dim() - 1))


class StepInputs(NamedTuple):
    """What a step is told of the gradients on one device.

    Args:
        grad_scale: what `torch.amp.GradScaler` wants gradients divided by.
        found_inf: where it holds a value other than zero, the step is left out.
        coefficient: what gradients are multiplied by, once they have been divided by `grad_scale`.
        cut_units: coefficients of the units of which other ranks hold parts.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    coefficient: Tensor | None = None
    cut_units: CutCoefficients | None = None


InputsByDevice: TypeAlias = dict[torch.device, StepInputs]
Measure: TypeAlias = Callable[[InputsByDevice, Tensor | None], InputsByDevice]


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


def described(clip: "Clip | None") -> str:
    """Return a policy in words that are the same in every process."""
    return str(clip.state_dict()) if waits_for_ranks(clip) and clip is not None else type(clip).__name__


def waits_for_ranks(clip: "Clip | None") -> bool:
    """Return whether a policy takes norms to which other ranks add their part."""
    return measures(clip) or unit_limits(clip) is not None


class SharedNorm:
    """The norm of several optimizers' gradients, for the next step of one of them.

    Args:
        norm: the norm, 0-d.
        clip: the policy that it was measured for.
        params: the optimizer's parameters.
    """

    def __init__(self, norm: Tensor, clip: "Clip", params: Iterable[Tensor]) -> None:
        self.norm, self._clip = norm, clip
        # Not kept alive, since a step may never come.
        self._grads = [(p, p.grad if p.grad is None else ref(p.grad), version_of(p.grad)) for p in params]

    def check(self, clip: "Clip | None") -> None:
        """Raise `RuntimeError` if policy or gradients are not those that have been measured."""
        same = clip is self._clip and all(
            (g if g is None else g()) is p.grad and version_of(p.grad) == version for p, g, version in self._grads
        )
        if not same:
            raise RuntimeError(
                "the norm that share_norm() measured is of other gradients or of another policy; call it after "
                "backward(), and step every optimizer before gradients change, without a closure"
            )


def version_of(tensor: Tensor | None) -> int | None:
    """Return how often a tensor has been changed in place; None for no tensor, or one that does not count."""
    return None if tensor is None or tensor.is_inference() else tensor._version


class GradientBatch(Protocol):
    """A batch as a policy sees it when it measures gradients."""

    params: list[Tensor]
    grads: list[Tensor]
    spread_over: ProcessGroups

    @property
    def holders(self) -> list[Tensor]:
        """Return the tensors that the user knows: DTensors, if the parameters are shards."""

    @property
    def device(self) -> torch.device:
        """Return the device of all parameters."""

    def partial_sums(self) -> Any:
        """Return the kernels' partial sums over the gradients (`measure.Partials`); None without kernels."""


class Clip(Protocol):
    """A clip policy, as the engine calls it."""

    @property
    def skip_nonfinite(self) -> bool:
        """Return whether a step whose gradients are not finite is left out."""

    @property
    def groups(self) -> ProcessGroups:
        """Return the process groups whose ranks hold further parameters."""

    def in_kernel(self) -> KernelClip | None:
        """Return what our kernels are to do; None if the policy is a pass over the gradients before the update."""

    def measure_first(
        self, batches: Sequence[GradientBatch], params: Sequence[Tensor], results: dict[torch.device, Tensor]
    ) -> Measure | None:
        """Return a function that measures all gradients and adds coefficients to a step's inputs, or None.

        The function is given the inputs, and the norm of all gradients if that has been measured already.

        Args:
            batches: the parameters that have gradients.
            params: all parameters of the optimizer.
            results: by device, what the policy leaves there.
        """

    def state_dict(self) -> dict[str, Any] | None:
        """Return the policy as plain data, or None."""

    def apply(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Change gradients in place."""
