"""What a stopping criterion is, and how criteria compose with `|` and `&`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from .._arguments import Described, as_list, as_state, found, is_number, real, short
from .._engine.sharing import gathered, whole

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Criterion(Described, ABC):
    """Base of the stopping criteria: decides whether to stop, from values that are passed by name.

    A subclass implements `decide`, and keeps what it must remember in `self.memory`. `reason` says in words why the
    last call said to stop; it is empty if it did not.

    Attributes:
        groups: process groups whose ranks decide as one, such as `(torch.distributed.group.WORLD,)`: each value is
            averaged over them, and all stop when one would. Every rank must then call the criterion. Default: (), to
            which an `EarlyStopping` adds those of its model, also for what it is composed with.

    Example:
        >>> from torch_gd.convergence import Criterion
        >>> class Perfect(Criterion):
        ...     def decide(self, values):
        ...         return "nothing is wrong any more" if self.value(values, "errors") == 0 else ""
        >>> stop = Perfect()
        >>> stop(errors=3), stop(errors=0), stop.reason
        (False, True, 'nothing is wrong any more')
    """

    def __init__(self) -> None:
        self.reason = ""
        self.memory: dict[str, Any] = {}
        self.groups: tuple[ProcessGroup | None, ...] = ()

    def __call__(self, *unnamed: NoReturn, **values: float | Tensor) -> bool:
        """Take in the latest values, and return whether to stop. A tensor is read, which waits for a GPU.

        Raises:
            ValueError: a value that the criterion needs is missing, or is a NaN that counts epochs or steps.
            TypeError: a value was passed without its name, or one that the criterion needs is no number.
        """
        if unnamed:
            raise TypeError("a criterion takes its values by name, as in stop(epoch=3, val_loss=0.5)")
        numbers = {name: _read(value) for name, value in values.items()}
        groups = tuple(dict.fromkeys(self._all_groups()))
        for group in groups:
            numbers = _means(gathered(numbers, group))
        reason = self._ask(numbers)
        for group in groups:  # values are the same on all ranks, but clocks are not
            reason = next(filter(None, gathered(reason, group)), "")
        self.reason = reason
        if reason:
            self.finish()
        return bool(reason)

    def _ask(self, values: dict[str, float]) -> str:
        """Return what `decide` says, once it is known to be words."""
        reason = self.decide(values)
        if not isinstance(reason, str):
            raise TypeError(
                f"{type(self).__name__}.decide() returned {short(reason)}, not a str: why to stop, or '' to go on"
            )
        return reason

    def _all_groups(self) -> "tuple[ProcessGroup | None, ...]":
        """Return the process groups whose ranks decide as one."""
        return self.groups

    @abstractmethod
    def decide(self, values: dict[str, float]) -> str:
        """Return in words why to stop; an empty string means to go on."""

    def finish(self) -> None:
        """Called when the run is to stop, because of this criterion or of another that it is composed with."""

    def __or__(self, other: "Criterion") -> "AnyOf":
        return AnyOf(self, other)

    def __and__(self, other: "Criterion") -> "AllOf":
        return AllOf(self, other)

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} is neither true nor false: combine criteria with | and &, call one to ask it")

    def reset(self) -> None:
        """Forget everything, to begin another run."""
        self.reason = ""
        self.memory = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what the criterion remembers, for a checkpoint."""
        return {"reason": self.reason, "memory": dict(self.memory)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned. If it raises, nothing has been taken over.

        Raises:
            ValueError: it is the state of another kind of criterion.
            TypeError: it is no state.
        """
        state = as_state(state_dict, "reason", "memory")
        memory = state["memory"]
        if not isinstance(memory, Mapping):
            raise TypeError(f"Invalid memory in state_dict: {found(memory)}; it must be what state_dict() returned")
        self.reason, self.memory = state["reason"], dict(memory)

    def value(self, values: dict[str, float], name: str) -> float:
        """Return one of the values.

        Raises:
            ValueError: it was not passed.
            TypeError: it is no number.
        """
        if name not in values:
            given = ", ".join(map(repr, values)) or "nothing"
            raise ValueError(f"{type(self).__name__} needs {name!r}, but was given {given}; pass {name}=…")
        value: object = values[name]
        advice = f"; pass {name}=…, or leave this call out while there is none"
        return float(value) if isinstance(value, bool) else real(name, value, advice=advice)


def _read(value: Any) -> Any:
    """Return the number that a tensor holds, and anything else as it is: a criterion looks at what it needs."""
    return whole(value).item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _means(of_ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of each value over the ranks that have it; what is no number stays so, for all to see."""
    means: dict[str, Any] = {}
    for name in dict.fromkeys(name for values in of_ranks for name in values):
        values = [values[name] for values in of_ranks if name in values]
        others = [value for value in values if not is_number(value)]
        means[name] = others[0] if others else sum(map(float, values)) / len(values)
    return means


class _Composite(Criterion):
    """Base of the criteria that are made of others."""

    _operator = ""

    def __init__(self, *criteria: Criterion) -> None:
        super().__init__()
        for criterion in criteria:
            if not isinstance(criterion, Criterion):
                raise TypeError(f"criteria compose with criteria, not with {type(criterion).__name__}")
        self.criteria = criteria

    def reasons(self, values: dict[str, float]) -> list[str]:
        """Return why its criteria would stop. All of them are asked, because each counts the values that it sees."""
        for criterion in self.criteria:
            criterion.reason = criterion._ask(values)
        return [criterion.reason for criterion in self.criteria if criterion.reason]

    def _all_groups(self) -> "tuple[ProcessGroup | None, ...]":
        return sum((criterion._all_groups() for criterion in self.criteria), self.groups)

    def finish(self) -> None:
        for criterion in self.criteria:
            criterion.finish()

    def reset(self) -> None:
        super().reset()
        for criterion in self.criteria:
            criterion.reset()

    def state_dict(self) -> dict[str, Any]:
        return {"reason": self.reason, "criteria": [criterion.state_dict() for criterion in self.criteria]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        state = as_state(state_dict, "reason", "criteria")
        parts = as_list("criteria in state_dict", state["criteria"], "it must be what state_dict() returned")
        if len(parts) != len(self.criteria):
            raise ValueError(
                f"Invalid state_dict: it is of {len(parts)} criteria, and {self!r} has {len(self.criteria)}"
            )
        loaded: list[tuple[Criterion, dict[str, Any]]] = []
        try:
            for criterion, part in zip(self.criteria, parts):
                before = criterion.state_dict()
                criterion.load_state_dict(part)
                loaded.append((criterion, before))
        except Exception:
            for criterion, before in loaded:
                criterion.load_state_dict(before)
            raise
        self.reason = state["reason"]

    def __repr__(self) -> str:
        if len(self.criteria) < 2:
            return f"{type(self).__name__}({', '.join(map(repr, self.criteria))})"
        return f" {self._operator} ".join(
            f"({criterion!r})"
            if isinstance(criterion, _Composite) and type(criterion) is not type(self)
            else f"{criterion!r}"
            for criterion in self.criteria
        )


class AnyOf(_Composite):
    """Stops as soon as one of its criteria does; also written `a | b`.

    Example:
        >>> from torch_gd.convergence import MaxEpochs, TargetLoss
        >>> stop = MaxEpochs(100) | TargetLoss(0.1)
        >>> stop(epoch=3, loss=0.05), stop.reason
        (True, 'loss reached 0.05')
    """

    _operator = "|"

    def decide(self, values: dict[str, float]) -> str:
        return "; ".join(self.reasons(values))


class AllOf(_Composite):
    """Stops when all of its criteria do, in the same call; also written `a & b`.

    Example:
        >>> from torch_gd.convergence import MaxEpochs, TargetLoss
        >>> stop = MaxEpochs(3) & TargetLoss(0.1)
        >>> stop(epoch=3, loss=0.5), stop(epoch=4, loss=0.05)
        (False, True)
    """

    _operator = "&"

    def decide(self, values: dict[str, float]) -> str:
        reasons = self.reasons(values)
        return "; ".join(reasons) if len(reasons) == len(self.criteria) else ""
