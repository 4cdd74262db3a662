"""Clip policies: what an optimizer does to gradients as part of its step."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .._arguments import found, number
from .._engine.clip import GradientBatch, KernelClip, Measure
from .._engine.ranks import ProcessGroups
from .._engine.writable import Use, check
from .cut_units import CutUnits
from .inputs import as_groups
from .norms import scale_units_
from .step_norm import Limits, StepNorm


class ClipPolicy:
    """What an optimizer does to gradients before its update: `torch_gd.AdamW(params, clip=ClipByGlobalNorm(1.0))`.

    For a policy of your own, derive from this class and define `apply`. It is called once a step with all parameters
    that have a gradient, after unscaling and before the update. A policy that is a frozen dataclass of plain values is
    saved with the optimizer; another one is not. The policies of this package ride in the update kernel instead,
    through the other methods; a subclass of theirs that defines `apply` does not.

    Example:
        >>> import torch, torch_gd
        >>> class Centralize(torch_gd.ClipPolicy):  # gradient centralization (Yong et al. 2020)
        ...     def apply(self, params, grads):
        ...         for g in grads:
        ...             if g.dim() > 1:
        ...                 g -= g.mean(dim=tuple(range(1, g.dim())), keepdim=True)
        >>> p = torch.zeros(1, 2, requires_grad=True)
        >>> p.grad = torch.tensor([[1.0, 3.0]])
        >>> torch_gd.SGD([p], lr=1.0, clip=Centralize()).step()
        >>> p
        tensor([[ 1., -1.]], requires_grad=True)
    """

    skip_nonfinite: bool = False
    groups: ProcessGroups = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "apply" in cls.__dict__ and "in_kernel" not in cls.__dict__:
            cls.in_kernel = ClipPolicy.in_kernel  # type: ignore[method-assign]  # its own pass replaces the kernel's

    def apply(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Change gradients in place.

        Args:
            params: parameters; only to be read.
            grads: their gradients, in the same order.
        """
        raise NotImplementedError(f"{type(self).__name__} must define apply(params, grads)")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"

    def in_kernel(self) -> KernelClip | None:
        """Return what our kernels do as they read gradients; None has `apply` called before the update."""
        return None

    def measure_first(
        self, batches: Sequence[GradientBatch], params: Sequence[Tensor], results: dict[torch.device, Tensor]
    ) -> Measure | None:
        """Return a function that measures all gradients before the update; None if nothing is measured."""
        return None

    def state_dict(self) -> dict[str, Any] | None:
        """Return a dataclass policy as plain data, which `torch.load(weights_only=True)` accepts; else None."""
        if not is_dataclass(self):
            return None
        # Process groups are of this run, and cannot be saved.
        values = {one.name: deepcopy(getattr(self, one.name)) for one in fields(self) if one.name != "groups"}
        return {**values, "name": type(self).__name__}

    @staticmethod
    def from_state_dict(state: dict[str, Any]) -> "ClipPolicy":
        """Return the policy that `state_dict` described.

        Raises:
            TypeError: not what `state_dict` returns.
            ValueError: no class of that name has been defined, or it takes other arguments.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"Invalid clip policy in state_dict: {found(state)}; it must be a dict")
        kinds = _subclasses(ClipPolicy)
        name = state.get("name")
        if not (isinstance(name, str) and name in kinds):
            raise ValueError(
                f"unknown clip policy {name!r} in state_dict; known: {', '.join(kinds)}; import the module that "
                "defines it before loading"
            )
        try:
            return kinds[name](**{key: value for key, value in state.items() if key != "name"})
        except TypeError as error:
            raise ValueError(f"the clip policy {name!r} in state_dict has other arguments: {error}") from error


def _subclasses(kind: type[ClipPolicy]) -> dict[str, type[ClipPolicy]]:
    found: dict[str, type[ClipPolicy]] = {}
    for subclass in kind.__subclasses__():
        found |= {subclass.__name__: subclass, **_subclasses(subclass)}
    return found


def _set_numbers(policy: ClipPolicy, *names: str, above_zero: bool = False, finite: bool = True) -> None:
    """Check arguments of a frozen policy, and make plain floats of them, as `state_dict` promises."""
    for name in names:
        value = number(name, getattr(policy, name), above_zero=above_zero, finite=finite)
        object.__setattr__(policy, name, value)


_name_of = "gradient {}".format


@dataclass(frozen=True)
class ClipByGlobalNorm(ClipPolicy):
    """Scale all gradients so that their norm together is at most `max_norm` (Pascanu et al. 2013).

    Equal to `clip_grad_norm_` before the step. The norm is of the gradients of all groups, after unscaling.

    Args:
        max_norm: the largest norm, above 0; inf only measures.
        norm_type: order of the norm, above 0, or inf. Default: 2.
        skip_nonfinite: leave out a step whose norm is NaN or infinite; on a GPU the host does not learn of it.
            Default: False, as in torch.
        groups: process groups whose ranks hold further parameters of the model, as the stages of a pipeline do; see
            `torch_gd.distributed`. Those over which DTensors are spread need not be named. Not saved. Default: none.

    Raises:
        TypeError: an argument that is no number.
        ValueError: an argument out of range.

    Example:
        >>> import torch, torch_gd
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> optimizer = torch_gd.SGD([p], lr=1.0, clip=torch_gd.ClipByGlobalNorm(1.0))
        >>> optimizer.step()
        >>> p.detach(), float(optimizer.last_norm)
        (tensor([-0.6000, -0.8000]), 5.0)
    """

    max_norm: float
    norm_type: float = 2.0
    skip_nonfinite: bool = False
    groups: ProcessGroups = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", as_groups(self.groups))
        _set_numbers(self, "max_norm", "norm_type", above_zero=True, finite=False)
        if not isinstance(self.skip_nonfinite, bool):
            raise TypeError(f"Invalid skip_nonfinite: {found(self.skip_nonfinite)}; it must be True or False")

    def __deepcopy__(self, memo: object) -> "ClipByGlobalNorm":
        return self  # it never changes, and process groups cannot be copied

    def in_kernel(self) -> KernelClip:
        """Return that the kernels do nothing but multiply by the coefficient that is measured first."""
        return KernelClip()

    def measure_first(
        self, batches: Sequence[GradientBatch], params: Sequence[Tensor], results: dict[torch.device, Tensor]
    ) -> Measure:
        """Return a function that measures the norm of all gradients and adds the coefficient to the step's inputs."""
        limits = Limits(self.max_norm, self.norm_type, self.skip_nonfinite, self.groups)
        return StepNorm(limits, batches, params, results).measure


@dataclass(frozen=True)
class ClipByValue(ClipPolicy):
    """Clamp every element of a gradient to [-clip_value, clip_value]; equal to `clip_grad_value_` before the step.

    Args:
        clip_value: the bound, 0 or more.

    Raises:
        TypeError: `clip_value` is no number.
        ValueError: `clip_value` is negative.

    Example:
        >>> import torch, torch_gd
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -0.25])
        >>> torch_gd.SGD([p], lr=1.0, clip=torch_gd.ClipByValue(0.5)).step()
        >>> p
        tensor([-0.5000,  0.2500], requires_grad=True)
    """

    clip_value: float

    def __post_init__(self) -> None:
        _set_numbers(self, "clip_value", finite=False)

    def in_kernel(self) -> KernelClip:
        """Return the bound."""
        return KernelClip(clip_value=self.clip_value)

    def apply(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Clamp gradients in place, once it is known that all can be."""
        check(grads, Use.BY_ELEMENT, _name_of)
        for g in grads:
            g.clamp_(-self.clip_value, self.clip_value)


@dataclass(frozen=True)
class ClipAdaptive(ClipPolicy):
    """Scale down each unit's gradient to a fraction of the unit itself: adaptive clipping (Brock et al. 2021).

    Equal to `clip_grad_adaptive_` before the step. A unit is a row of a matrix, a filter of a convolution, or a whole
    vector or scalar.

    Args:
        clipping: the largest norm of a unit's gradient, as a fraction of the unit's own, 0 or more. Default: 0.01.
        eps: the least norm that a unit counts for. Default: 1e-3.

    Raises:
        TypeError: an argument that is no number.
        ValueError: an argument is negative or infinite.

    Example:
        >>> import torch, torch_gd
        >>> p = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> p.grad = torch.tensor([6.0, 8.0])
        >>> torch_gd.SGD([p], lr=1.0, clip=torch_gd.ClipAdaptive(0.1)).step()
        >>> p
        tensor([2.7000, 3.6000], requires_grad=True)
    """

    clipping: float = 0.01
    eps: float = 1e-3

    def __post_init__(self) -> None:
        _set_numbers(self, "clipping", "eps")

    def in_kernel(self) -> KernelClip:
        """Return the two limits."""
        return KernelClip(units=(self.clipping, self.eps))

    def measure_first(
        self, batches: Sequence[GradientBatch], params: Sequence[Tensor], results: dict[torch.device, Tensor]
    ) -> Measure | None:
        """Return a function that measures the units of which other ranks hold parts; None if there are none."""
        cut = CutUnits(params, self.clipping, self.eps)
        return partial(cut.measure, batches) if cut else None

    def apply(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Scale gradients down in place, once it is known that all can be."""
        scale_units_(params, grads, self.clipping, self.eps, _name_of)


def with_groups_of(present: ClipPolicy | None, loaded: ClipPolicy | None) -> ClipPolicy | None:
    """Return a policy from a checkpoint with the process groups of the present one, since these are never saved."""
    if present is None or not present.groups or not isinstance(loaded, ClipByGlobalNorm):
        return loaded
    return replace(loaded, groups=present.groups)


def as_policy(clip: object) -> ClipPolicy | None:
    """Return a policy: the one given, or `ClipByGlobalNorm` of a number.

    Raises:
        TypeError: anything else.
        ValueError: a number that is not above 0.
    """
    if clip is None or isinstance(clip, ClipPolicy):
        return clip
    if isinstance(clip, Real) and not isinstance(clip, bool):
        return ClipByGlobalNorm(float(clip))
    raise TypeError(
        f"Invalid clip: {found(clip)}; it must be a number (the largest global norm), None, or an instance of a policy "
        "such as torch_gd.ClipByGlobalNorm(1.0) or torch_gd.ClipByValue(0.5)"
    )
