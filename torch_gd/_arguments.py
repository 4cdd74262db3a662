"""What is done with arguments: show them in a repr, answer a wrong name with the right one, and name a wrong value."""

import functools
import inspect
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

Init = Callable[..., None]
_F = TypeVar("_F", bound=Callable[..., Any])


class Described:
    """Base of classes whose repr shows the arguments that they were made with, and where they stand.

    The `__init__` of every subclass is wrapped, which leaves its signature as it is. A keyword that it does not take,
    but `_right_names` knows, raises a `TypeError` that says what to write instead.
    """

    _right_names: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """By the wrong name: the right one, and advice in words that mentions it."""

    _arguments: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _wrapped(cls.__init__)  # type: ignore[method-assign]

    def __repr__(self) -> str:
        call = f"{type(self).__name__}({self.__dict__.get('_arguments', '…')})"
        state = self._state()
        return f"{call}: {state}" if state else call

    def _state(self) -> str:
        """Return where the object stands, in a few words; empty where there is nothing to say."""
        return ""


def short(value: object) -> str:
    """Return a short text for an argument: as it would be typed where that is short, without any address."""
    if isinstance(value, (Optimizer, nn.Module, Tensor)):
        return type(value).__name__
    if isinstance(value, functools.partial):
        return short(value.func)
    if inspect.isroutine(value):
        return value.__name__
    text = _SHORT.repr(value)
    return type(value).__name__ if " at 0x" in text else text


def found(value: object) -> str:
    """Return a short text for a value that an error is about."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    if isinstance(value, (tuple, list)) and any(isinstance(one, Tensor) for one in value):
        return f"({', '.join(map(found, value[:4]))}{', …' if len(value) > 4 else ''})"
    return f"the class {value.__name__}" if isinstance(value, type) else short(value)


def _wrapped(init: Init) -> Init:
    """Return a constructor that checks the names of its arguments, and remembers them as text."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def checked(self: Described, *args: Any, **kwargs: Any) -> None:
        check_names(type(self).__name__, signature, kwargs, self._right_names)
        if "_arguments" not in self.__dict__:  # otherwise a subclass has set it, and calls this constructor
            self.__dict__["_arguments"] = _as_typed(signature, self, args, kwargs)
        init(self, *args, **kwargs)

    return checked


def answering(right_names: Mapping[str, tuple[str, str]], label: str = "") -> Callable[[_F], _F]:
    """Return a decorator: what `_right_names` is to a `Described`, for functions and for classes with another base.

    The error is about `label`, or where there is none about the class whose constructor is decorated.
    """

    def decorated(function: _F) -> _F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            check_names(label or type(args[0]).__name__, signature, kwargs, right_names)
            return function(*args, **kwargs)

        return checked  # type: ignore[return-value]  # it has the same signature

    return decorated


def check_names(
    cls: str, signature: inspect.Signature, kwargs: Mapping[str, Any], right_names: Mapping[str, tuple[str, str]]
) -> None:
    taken = signature.parameters
    wrong = [name for name in kwargs if name not in taken and name in right_names]
    if not wrong or any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    # A class may lack the right argument too: a constant schedule has no floor.
    advice = [text for right, text in (right_names[name] for name in wrong) if right in taken]
    if not advice:
        advice = [f"it takes {', '.join(name for name in taken if name != 'self')}"]
    raise TypeError(f"{cls} takes no {' and no '.join(wrong)}: {'; '.join(dict.fromkeys(advice))}")


@contextmanager
def naming(label: str, value: object, must: str) -> Iterator[None]:
    """Name an argument in an error of Python's or torch's about its value; the type of the error stays.

    Args:
        label: the argument, as torch's own texts call it.
        value: its value.
        must: what it must be, to follow a semicolon.
    """
    try:
        yield
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        kind = next((kind for kind in (TypeError, RuntimeError) if isinstance(error, kind)), ValueError)
        raise kind(f"Invalid {label}: {found(value)}; {must} ({error})") from error


def as_list(name: str, values: Any, must: str) -> list[Any]:
    """Return the items of an iterable; name the argument in the error if it is none."""
    with naming(name, values, must):
        return list(values)


def real(
    name: str, value: Any, *, must: str = "a number", finite: bool = False, where: str = "", advice: str = ""
) -> float:
    """Return any number as a float, also NumPy's, NaN, or a tensor of one element.

    Args:
        name: the argument.
        value: its value.
        must: what the text says that it must be.
        finite: whether it must be neither infinite nor NaN.
        where: what the text says after the value, such as " in group 1".
        advice: what the text ends with where it is no number.

    Raises:
        TypeError: it is no number; a bool is none, since it stands for some other argument.
        ValueError: it is not finite.
    """
    if isinstance(value, bool) or not is_number(value):
        raise TypeError(f"Invalid {name}: {found(value)}{where}; it must be {must}{advice}")
    as_float = float(value)
    if finite and not math.isfinite(as_float):
        raise ValueError(f"Invalid {name}: {as_float}{where}; it must be finite")
    return as_float


def number(name: str, value: Any, *, above_zero: bool = False, finite: bool = True, where: str = "") -> float:
    """Return a number that is not negative as a float; `above_zero` refuses 0 too, and `finite` infinity.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range or NaN.
    """
    must = ("above 0" if above_zero else "0 or more") + ("" if finite else ", or inf")
    as_float = real(name, value, must=f"a number: {must}", where=where)
    if not (as_float > 0 if above_zero else as_float >= 0) or (finite and math.isinf(as_float)):
        raise ValueError(f"Invalid {name}: {value}{where}; it must be {must}")
    return as_float


def count(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number of at least `least` as an int; 1e6 is one.

    Raises:
        TypeError: it is no number.
        ValueError: it is lower, or no whole number.
    """
    must = f"a whole number, {least} or more"
    as_float = real(name, value, must=must)
    if not (as_float >= least and as_float.is_integer()):
        raise ValueError(f"Invalid {name}: {value}; it must be {must}")
    return int(value)


def as_optimizer(value: object, place: str, needs: str = "") -> Optimizer:
    """Return an optimizer, which is easily swapped with something else; the `TypeError` begins as torch's.

    `place` is what the text says of its place among the arguments. Where `needs` names a method, what has it will do.
    """
    if (hasattr(value, needs) if needs else isinstance(value, Optimizer)) and not isinstance(value, (type, nn.Module)):
        return value  # type: ignore[return-value]  # what has the method is one
    advice = f"pass an instance, {value.__name__}(…)" if isinstance(value, type) else place
    raise TypeError(f"{type(value).__name__} is not an Optimizer: optimizer is {found(value)}; {advice}")


def as_state(state_dict: object, *names: str) -> Mapping[str, Any]:
    """Return a saved state; raise a `TypeError` if it is none, and a `ValueError` if it lacks one of the names."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"Invalid state_dict: {found(state_dict)}; it must be what state_dict() returned")
    if missing := [name for name in names if name not in state_dict]:
        held = ", ".join(map(repr, state_dict)) or "nothing"
        raise ValueError(f"Invalid state_dict: it has {held}, but no {', '.join(map(repr, missing))}")
    return state_dict


def is_number(value: Any) -> bool:
    """Return whether torch takes a value for a number, as it takes NumPy's."""
    if isinstance(value, (str, bytes, bytearray, Decimal, Fraction)):
        return False
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return True


def _as_typed(signature: inspect.Signature, self: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the arguments as they could be typed: the first by position if it is required, the others by name.

    Arguments that have their default value are left out.
    """
    try:
        given = signature.bind(self, *args, **kwargs).arguments
    except TypeError:  # the constructor itself will raise it
        return "…"
    _, *parameters = signature.parameters.values()
    texts = []
    for i, parameter in enumerate(parameters):
        if parameter.name not in given:
            continue
        value = given[parameter.name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            texts += [short(item) for item in value]
        elif parameter.kind is parameter.VAR_KEYWORD:
            texts += [f"{name}={short(item)}" for name, item in value.items()]
        elif i == 0 and parameter.default is parameter.empty:
            texts.append(short(value))
        elif not _is_default(value, parameter.default):
            texts.append(f"{parameter.name}={short(value)}")
    return ", ".join(texts)


def _is_default(value: object, default: object) -> bool:
    """Return whether an argument is its default; a type of its own, such as a tensor, is not compared."""
    return value is default or (type(value) is type(default) and bool(value == default))


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
