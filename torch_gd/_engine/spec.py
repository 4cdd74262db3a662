"""What the engine is told of an algorithm: data, and two functions."""

from collections.abc import Callable, Generator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .._arguments import found
from ..triton_kernels import runtime
from .encoding import Column

Group: TypeAlias = dict[str, Any]
State: TypeAlias = MutableMapping[str, Any]
# A layer-wise step on torch's operators: it yields what is to be measured besides the parameters, a tensor for each of
# them, is sent the norms of all parameters and of these, float64 and 1-d, and returns what an element-wise one returns.
LayerStep: TypeAlias = Generator[list[Tensor], tuple[Tensor, Tensor], Any]


class FusedTensors(NamedTuple):
    """The tensors that torch's fused kernels take, in lists of equal length.

    Args:
        params: parameters, dense.
        grads: gradients, laid out as their parameters.
        states: a list for each name in `UpdateSpec.state_names`.
        steps: step counters, already advanced; empty if the algorithm counts no steps.
        numel: elements of all parameters together.
        products: a list for each name in `UpdateSpec.products`, of what is still to be multiplied.
    """

    params: list[Tensor]
    grads: list[Tensor]
    states: list[list[Tensor]]
    steps: list[Tensor]
    numel: int
    products: Sequence[list[Tensor]] = ()


class LoopTensors(NamedTuple):
    """The tensors that torch's functional implementations take, in lists of equal length.

    Args:
        params: parameters.
        grads: gradients.
        states: the state dict of each parameter, in which missing states are to be made.
    """

    params: list[Tensor]
    grads: list[Tensor]
    states: list[State]


class TorchFlags(NamedTuple):
    """The arguments of torch's functional implementations that choose one and take part in AMP.

    Args:
        foreach: True for foreach, False for the for-loop, None for torch's choice.
        fused: True for the fused kernels.
        grad_scale: what `torch.amp.GradScaler` wants gradients divided by.
        found_inf: where it holds a value other than zero, the step is left out.
    """

    foreach: bool | None = None
    fused: bool | None = None
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None


def decayed_dtype(group: Group, p: Tensor, g: Tensor) -> torch.dtype:
    """Return the dtype of a gradient after torch has added the weight decay to it, if that is not decoupled."""
    decays = group.get("weight_decay", 0) != 0 and not group.get("decoupled_weight_decay")
    return torch.promote_types(p.dtype, g.dtype) if decays else g.dtype


def parameter_dtype(group: Group, p: Tensor, g: Tensor) -> torch.dtype:
    """Return the parameter's dtype."""
    return p.dtype


@dataclass(frozen=True)
class UpdateSpec:
    """An algorithm under the options of one parameter group.

    Two groups whose specs are equal share a launch, whatever the values of their hyperparameters, which are read anew
    at every step.

    Args:
        rule: the arithmetic, a `torch_gd.triton_kernels.rule.Rule`; None where Triton is not installed.
        hyperparameters: keys of the group whose values the rule's `scalars` takes, in its order, the learning rate
            first. A tuple in the group, such as `betas`, counts as its elements.
        state_names: keys of the states that have an element for each of the parameter's, in the rule's order.
        options: the rule's compile-time options.
        fused_cpu: a call of torch's fused CPU kernel, or of what is as good; None if torch has none. It returns whether
            autograd has seen the update, as autograd sees every operator but the fused kernels.
        fused_cpu_dtypes: the dtypes for which that kernel is right; None for all floating-point dtypes.
        foreach_below: mean elements a tensor below which torch's foreach is faster on the CPU than torch's default.
        refuses_sparse: why sparse gradients cannot be used, in torch's words; empty if they can.
        torch_fuses: whether `torch_step` takes `fused=True`; if not, `fused_cpu` alone does what torch's kernels would.
        lerped: a state that torch's implementation moves towards the gradient by `lerp_`, which takes one dtype only;
            empty if there is none.
        counts_steps: whether the rule depends on the number of the step, which `step` in the state counts. A new state
            gets a counter unless `init_state` makes one.
        products: keys of states of one element that are multiplied by the rule's `factors` at each step; `init_state`
            makes them, and steps must be counted.
        non_negative: those of `state_names` that cannot be negative, such as second moments. A `Precision` stores them
            so that they can decay, and so that none becomes zero: the step may be divided by its root.
        rounds_badly: why states cannot be stored in less than float32; empty if they can.
        columns: how parameter and states are stored; set by the engine, as a group's `precision` says.
        lazy_dtype: returns the dtype of a state that `init_state` leaves for the first step to make, from group,
            parameter and gradient. Default: the parameter's dtype.
        layerwise: what is measured of each tensor besides the parameter, if the step is scaled by a ratio of their
            norms: "update", once the states have advanced, or "gradient", and states follow. `rule` is then a
            `torch_gd.triton_kernels.rule.LayerRule`, and `fused_cpu` and `torch_step` are generators (`LayerStep`).
            Empty for an element-wise step.

    Raises:
        TypeError: an argument of the wrong kind.

    Example:
        >>> from torch_gd.optimizers import UpdateSpec
        >>> from torch_gd.triton_kernels import rules
        >>> UpdateSpec(rules.MOMENTUM, ("lr", "weight_decay", "momentum", "dampening"), ("momentum_buffer",), (False,))
        UpdateSpec(rule=..., hyperparameters=('lr', ...), state_names=('momentum_buffer',), options=(False,), ...)
    """

    rule: Any
    hyperparameters: tuple[str, ...]
    state_names: tuple[str, ...] = ()
    options: tuple[Any, ...] = ()
    fused_cpu: Callable[[Group, FusedTensors], Any] | None = None
    fused_cpu_dtypes: tuple[torch.dtype, ...] | None = None
    foreach_below: int = 0
    refuses_sparse: str = "this optimizer does not support sparse gradients"
    torch_fuses: bool = True
    lerped: str = ""
    counts_steps: bool = False
    products: tuple[str, ...] = ()
    non_negative: tuple[str, ...] = ()
    rounds_badly: str = ""
    columns: tuple[Column, ...] = ()
    lazy_dtype: Callable[[Group, Tensor, Tensor], torch.dtype] = parameter_dtype
    layerwise: Literal["", "update", "gradient"] = ""

    def __post_init__(self) -> None:
        for name in ("hyperparameters", "state_names", "products", "non_negative"):
            value = getattr(self, name)
            if not (isinstance(value, tuple) and all(isinstance(key, str) for key in value)):
                raise TypeError(f"Invalid {name}: {value!r}; UpdateSpec takes a tuple of keys, such as ('lr',)")
        if not isinstance(self.options, tuple):
            raise TypeError(f"Invalid options: {self.options!r}; UpdateSpec takes a tuple of compile-time constants")
        if not hasattr(self.rule, "on_host") and not (self.rule is None and not runtime.HAS_TRITON):
            raise TypeError(f"Invalid rule: {self.rule!r}; UpdateSpec takes a torch_gd.triton_kernels.rule.Rule")
        if self.rule is not None and bool(self.products) != (self.rule.factors is not None):
            raise TypeError(f"Invalid products: {self.products!r}; they must be as many as the rule's factors")
        if self.products and not self.counts_steps:
            raise TypeError(f"Invalid counts_steps: {self.counts_steps!r}; a rule with factors is given the step")

    @property
    def own_names(self) -> tuple[str, ...]:
        """Return the algorithm's own names of the states that have an element for each of the parameter's."""
        return tuple(column.name for column in self.columns if column.name) or self.state_names

    @property
    def counters(self) -> tuple[str, ...]:
        """Return the keys of the states of one element that change with each step."""
        return ("step", *self.products) if self.counts_steps else ()

    def values(self, group: Group) -> list[float | Tensor]:
        """Return the hyperparameters of a group as the rule takes them."""
        values: list[float | Tensor] = []
        for name in self.hyperparameters:
            value = group[name]
            if type(value) is tuple or type(value) is list:
                values.extend(value)
            else:
                values.append(value)
        return values


class Algorithm(NamedTuple):
    """An optimizer as the engine knows it.

    Args:
        name: the class's name, for error messages.
        spec: returns the `UpdateSpec` of a group.
        init_state: returns the state of a parameter that has none, from its group and itself.
        torch_step: updates tensors of one group with torch's own operators; None if it cannot.
    """

    name: str
    spec: Callable[[Group], UpdateSpec]
    init_state: Callable[[Group, Tensor], State]
    torch_step: Callable[[Group, LoopTensors, TorchFlags], Any] | None

    def run_torch(self, group: Group, tensors: LoopTensors, flags: TorchFlags) -> Any:
        """Update tensors of one group by `torch_step`, which `check_part` has found to be there; return its result."""
        return None if self.torch_step is None else self.torch_step(group, tensors, flags)

    def checked_spec(self, group: Group, index: int) -> UpdateSpec:
        """Return the spec of a group.

        Args:
            group: the parameter group.
            index: its index, for error messages.

        Raises:
            TypeError: `spec` returns something else, cannot use an option, or names a hyperparameter that is not there.
        """
        try:
            spec = self.spec(group)
        except KeyError as error:
            raise TypeError(self._lacks(index, error.args[0])) from error
        except (TypeError, ValueError, RuntimeError) as error:
            options = ", ".join(f"{name}={found(value)}" for name, value in group.items() if "param" not in name)
            raise TypeError(
                f"{self.name}: spec() cannot use the options of group {index} ({options}): {error}"
            ) from error
        if not isinstance(spec, UpdateSpec):
            raise TypeError(f"{self.name}.spec() returned {spec!r}; it must return a torch_gd.optimizers.UpdateSpec")
        for name in spec.hyperparameters:
            if name not in group:
                raise TypeError(self._lacks(index, name))
        return spec

    def _lacks(self, index: int, name: object) -> str:
        return (
            f"{self.name}: group {index} has no {name!r}, which its spec() needs. Has a checkpoint of another "
            "optimizer been loaded? In an optimizer of your own, add it to the defaults that the constructor passes on"
        )


def new_step_counter(group: Group, p: Tensor, start: float = 0.0) -> Tensor:
    """Return a step counter: on the CPU, or beside the parameter if `fused` or `capturable` asks for it."""
    if group.get("fused"):
        return torch.full((), start, dtype=torch.float32, device=p.device)
    dtype = torch.get_default_dtype() if torch.get_default_dtype() == torch.float64 else torch.float32
    if group.get("capturable"):
        return torch.full((), start, dtype=dtype, device=p.device)
    return torch.tensor(start, dtype=dtype, device="cpu")  # as torch makes it; a fake tensor then knows its value
