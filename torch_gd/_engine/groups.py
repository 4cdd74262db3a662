"""Whether a parameter group still is what a plan was made for. Every step asks, so the answer must be cheap."""

from decimal import Decimal
from fractions import Fraction
from operator import is_
from typing import Any

from torch import Tensor

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
        self.spec = algorithm.checked_spec(group, index)
        self._plan_key = plan_key(self.spec, group)
        self._remember(group)

    def _remember(self, group: Group) -> None:
        if self._has_gradients:
            self._check_numbers(group)
        self._values = list(group.values())
        # A schedule may set another learning rate at each step, and a plan depends on its type only.
        self._lr = list(group).index("lr") if "lr" in group else list(group).index("params")
        self._values[self._lr] = type(self._values[self._lr])
        self._is_immutable = all(
            is_immutable(value) for name, value in group.items() if name not in ("params", "param_names", "lr")
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
        if plan_key(self._algorithm.checked_spec(group, self._index), group) != self._plan_key:
            return False
        self._remember(group)
        return True

    def _check_numbers(self, group: Group) -> None:
        for name in (*self.spec.hyperparameters, "l1"):
            option = group.get(name, 0.0)
            for value in option if isinstance(option, (tuple, list)) and option else (option,):
                if not (isinstance(value, Tensor) or is_number(value)):
                    raise TypeError(
                        f"{self._algorithm.name}: {name} of group {self._index} holds {value!r}, which is no number"
                    )
        if not group.get("l1", 0.0) >= 0:
            raise ValueError(f"Invalid l1: {group['l1']} in group {self._index}; it must be 0 or more")
        if "clip" in group:
            raise TypeError(f"Invalid clip in group {self._index}: a policy belongs to the optimizer")


def plan_key(spec: UpdateSpec, group: Group) -> tuple[Any, ...]:
    """Return the options of a group that force a new plan when they change."""
    are_tensors = [isinstance(value, Tensor) for value in spec.values(group)]
    choices = group["foreach"], group.get("fused"), group.get("capturable"), group["differentiable"]
    return spec, choices, bool(group.get("l1")), are_tensors


def is_immutable(option: object) -> bool:
    """Return whether an option cannot change while it stays the same object."""
    if isinstance(option, tuple):
        return all(map(is_immutable, option))
    return option is None or isinstance(option, (bool, int, float, str))


def is_number(value: Any) -> bool:
    """Return whether torch takes a value for a number, as it takes NumPy's."""
    if isinstance(value, (str, bytes, bytearray, Decimal, Fraction)):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
