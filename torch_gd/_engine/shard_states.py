"""States of DTensors, as those of the shards that this rank holds."""

from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from operator import itemgetter
from typing import Any

from torch import Tensor

from .encoding import scale_shape
from .shards import as_dtensor, has_dtensors, placed_alike
from .spec import State


class LocalState(MutableMapping[str, Any]):
    """View of a DTensor's state: reading returns this rank's shards, writing wraps shards into DTensors.

    Args:
        owner: the DTensor.
        state: its state in `optimizer.state`.
    """

    __slots__ = ("_kind", "_known", "_owner", "_state")

    def __init__(self, owner: Tensor, state: State) -> None:
        self._owner: Any = owner
        self._state = state
        self._kind: Any = type(owner)
        self._known: dict[str, Any] = {}  # specs that place a state as its parameter, as the last comparison found

    def __getitem__(self, name: str) -> Any:
        value: Any = self._state[name]
        if type(value) is not self._kind:
            return value
        spec = value._spec
        if self._known.get(name) is not spec:
            if not placed_alike(value, self._owner):
                return value
            self._known[name] = spec
        return value._local_tensor

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self._state and self[name] is value:
            return
        local = self._owner._local_tensor
        if name != "step" and isinstance(value, Tensor):
            if value.shape == local.shape:
                value = as_dtensor(value, self._owner)
            elif name.endswith("_scale") and value.shape == scale_shape(local.shape):
                value = as_dtensor(value, self._owner, scale_shape(self._owner.shape))
        self._state[name] = value

    def __delitem__(self, name: str) -> None:
        del self._state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)

    @property
    def of_owner(self) -> State:
        """Return the state in `optimizer.state`."""
        return self._state

    def whole_tensors(self, names: Iterable[str]) -> list[str]:
        """Return those of the names under which there is a tensor that is no DTensor."""
        found = [(name, self._state.get(name)) for name in names]
        return [name for name, value in found if isinstance(value, Tensor) and type(value) is not self._kind]


def states_of_owners(states: Iterable[State]) -> list[State]:
    """Return the states in `optimizer.state`, for what is never a DTensor, such as step counters."""
    return [state.of_owner if isinstance(state, LocalState) else state for state in states]


class StateColumn:
    """One state of many DTensors, fetched at each step: `LocalState` for all at once.

    Args:
        states: the states.
        name: which one.
    """

    def __init__(self, states: Sequence[LocalState], name: str) -> None:
        self._states, self._name = states, name
        self._get = itemgetter(name)
        self._of_owners = [state.of_owner for state in states]
        self._specs: list[Any] = []  # that place each as its parameter

    def fetch(self) -> list[Tensor]:
        """Return this rank's shards; raise `KeyError` if a state is missing."""
        values: list[Any] = list(map(self._get, self._of_owners))
        try:
            specs = [value._spec for value in values]
        except AttributeError:  # not a DTensor
            return [state[self._name] for state in self._states]
        if specs == self._specs:
            return [value._local_tensor for value in values]
        shards = [state[self._name] for state in self._states]
        # Those placed otherwise than their parameter stay whole.
        self._specs = specs if not has_dtensors(shards) else []
        return shards
