"""Whether a group still is what a plan was made for: asked at every step, so first whether anything has changed."""

from decimal import Decimal
from fractions import Fraction
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from ..optimizers.base import FusedOptimizer, Group


class Kept:
    """A group's parameters, and what its options amount to.

    Args:
        optimizer: whose it is.
        index: which of its parameter groups.

    Raises:
        TypeError: a hyperparameter of a group that has gradients is no number; so does `same`, if one has become none.
    """

    def __init__(self, optimizer: "FusedOptimizer", index: int) -> None:
        group = optimizer.param_groups[index]
        self._optimizer, self._index = optimizer, index
        self.params = list(group["params"])
        self._updates = any(p.grad is not None for p in self.params)
        self._structure = optimizer.structure(group)
        self._look_at(group)

    def _look_at(self, group: "Group") -> None:
        if self._updates:
            self._check_numbers(group)
        # A schedule may set another learning rate at each step; a plan depends on no more than its type.
        self._values_of = itemgetter(*(name for name in group if name not in ("params", "lr")))
        self._count, self._lr_type, self._values = len(group), type(group.get("lr")), self._values_of(group)
        self._lasting = all(map(_lasts, self._values))

    def _check_numbers(self, group: "Group") -> None:
        for value in self._optimizer.hyperparameters(group):
            if not (isinstance(value, Tensor) or _is_number(value)):
                name = f"{self._name_of(value, group)} of group {self._index}"
                raise TypeError(f"{type(self._optimizer).__name__}: {name} holds {value!r}, which is no number")

    def same(self, group: "Group") -> bool:
        """Whether a plan made for what was kept serves this group."""
        now = group["params"]
        if len(now) != len(self.params) or not all(map(is_, now, self.params)):
            return False
        if self._lasting and self._untouched(group):
            return True
        if self._optimizer.structure(group) != self._structure:
            return False
        self._look_at(group)
        return True

    def _untouched(self, group: "Group") -> bool:
        try:
            values: tuple[Any, ...] = self._values_of(group)
        except KeyError:
            return False
        same_size = len(group) == self._count and type(group.get("lr")) is self._lr_type
        return same_size and all(map(is_, values, self._values))

    def _name_of(self, value: object, group: "Group") -> str:
        changed = (name for name, option in group.items() if option is not self._optimizer.defaults.get(name))
        return next((name for name in changed if _holds(group[name], value)), "a hyperparameter")


def _lasts(option: object) -> bool:
    """Whether an option is what it was for as long as it is the same object: no tensor, and nothing that holds any."""
    if isinstance(option, tuple):
        return all(map(_lasts, option))
    return option is None or isinstance(option, (bool, int, float, str))


def _is_number(value: Any) -> bool:
    """Whether torch takes it for one, as it does NumPy's."""
    if isinstance(value, (str, bytes, bytearray, Decimal, Fraction)):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _holds(option: object, value: object) -> bool:
    return option is value or (isinstance(option, (tuple, list)) and any(one is value for one in option))
