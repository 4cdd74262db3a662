"""Whether a parameter group still is what a plan was made for. Every step asks, so the answer must be cheap."""

from fractions import Fraction
from numbers import Real
from operator import is_
from typing import Any

from torch import Tensor

from .._arguments import found, is_number, number
from .spec import Algorithm, Group, UpdateSpec


class GroupSnapshot:
    """What a plan remembers of a parameter group, to notice a change.

    Args:
        algorithm: the optimizer's.
        index: index of the group, for error messages.
        group: the group.

    Raises:
        TypeError, ValueError: an option of a group that has gradients cannot be used; also from `still_describes`.
    """

    def __init__(self, algorithm: Algorithm, index: int, group: Group) -> None:
        self._algorithm, self._index = algorithm, index
        self.params: list[Tensor] = list(group["params"])
        self._has_gradients = any(p.grad is not None for p in self.params)
        self.spec = self._checked_spec(group)
        self._plan_key = plan_key(self.spec, group)
        self._remember(group)

    def _checked_spec(self, group: Group) -> UpdateSpec:
        spec = self._algorithm.checked_spec(group, self._index)
        if self._has_gradients:
            check_options(self._algorithm, self._index, spec, group)
        return spec

    def _remember(self, group: Group) -> None:
        self._values = list(group.values())
        # A schedule may set another learning rate at each step, and a plan depends on its type only.
        self._lr = list(group).index("lr") if "lr" in group else list(group).index("params")
        self._values[self._lr] = type(self._values[self._lr])
        self._is_immutable = all(
            is_immutable(value)
            for name, value in group.items()
            if name not in ("params", "param_names", "param_numbers", "lr")
        )

    def still_describes(self, group: Group) -> bool:
        """Return whether a plan that was made from this snapshot serves the group."""
        params = group["params"]
        if len(params) != len(self.params) or not all(map(is_, params, self.params)):
            return False
        if self._is_immutable:
            values = list(group.values())
            if len(values) == len(self._values):
                values[self._lr] = type(values[self._lr])
                if all(map(is_, values, self._values)):
                    return True
        if plan_key(self._checked_spec(group), group) != self._plan_key:
            return False
        self._remember(group)
        return True


def plan_key(spec: UpdateSpec, group: Group) -> tuple[Any, ...]:
    """Return the options of a group that force a new plan when they change."""
    are_tensors = [isinstance(value, Tensor) for value in spec.values(group)]
    choices = group["foreach"], group.get("fused"), group.get("capturable"), group["differentiable"]
    return spec, choices, bool(group.get("l1")), are_tensors, group.get("precision")


def check_options(algorithm: Algorithm, index: int, spec: UpdateSpec, group: Group) -> None:
    """Raise `TypeError` or `ValueError` for an option of a group that no step can use."""
    for name in (*spec.hyperparameters, "l1"):
        option = group.get(name, 0.0)
        # lr and l1 are made floats; torch's operators, which see the others, take numbers of Python and NumPy only.
        fits = is_number if name in ("lr", "l1") else is_real
        # One number in a tuple is no pair of betas.
        for value in option if isinstance(option, (tuple, list)) and len(option) > 1 else (option,):
            if not (isinstance(value, Tensor) or fits(value)):
                raise TypeError(f"{algorithm.name}: {name} of group {index} holds {found(value)}, which is no number")
    if isinstance(lr := group.get("lr"), Tensor) and lr.numel() != 1:
        raise ValueError(f"Tensor lr must be 1-element, but group {index} has {found(lr)}")
    if any(isinstance(group[name], (tuple, list)) for name in spec.hyperparameters):
        check_count(algorithm, index, spec, group)
    number("l1", group.get("l1", 0.0), where=f" in group {index}")
    if group.get("clip") is not None:
        raise TypeError(f"Invalid clip in group {index}: a policy belongs to the optimizer")


def check_count(algorithm: Algorithm, index: int, spec: UpdateSpec, group: Group) -> None:
    """Raise `TypeError` if tuples, such as `betas`, give the rule another number of values than it takes."""
    values = spec.values(group)
    if spec.rule is None or any(isinstance(value, Tensor) for value in values):
        return
    try:
        spec.rule.on_host(1.0, (*map(float, values), *(0.5 for _ in spec.products)))
    except (ArithmeticError, ValueError) as error:
        if "to unpack" in str(error):
            given = ", ".join(f"{name}={found(group[name])}" for name in spec.hyperparameters)
            raise TypeError(f"{algorithm.name}: group {index} holds {given}: {error}") from error


def is_real(value: object) -> bool:
    """Return whether a value is a number of Python's or NumPy's."""
    return isinstance(value, Real) and not isinstance(value, Fraction)


def is_immutable(option: object) -> bool:
    """Return whether an option cannot change while it stays the same object."""
    if isinstance(option, tuple):
        return all(map(is_immutable, option))
    return option is None or isinstance(option, (bool, int, float, str))
