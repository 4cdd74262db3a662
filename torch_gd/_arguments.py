"""What a constructor does with its arguments: show them in the repr, and answer a wrong name with the right one."""

import functools
import inspect
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

Init = Callable[..., None]


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


def _wrapped(init: Init) -> Init:
    """Return a constructor that checks the names of its arguments, and remembers them as text."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def checked(self: Described, *args: Any, **kwargs: Any) -> None:
        _check_names(type(self), signature, kwargs)
        if "_arguments" not in self.__dict__:  # otherwise a subclass has set it, and calls this constructor
            self.__dict__["_arguments"] = _as_typed(signature, self, args, kwargs)
        init(self, *args, **kwargs)

    return checked


def _check_names(cls: type[Described], signature: inspect.Signature, kwargs: Mapping[str, Any]) -> None:
    taken = signature.parameters
    wrong = [name for name in kwargs if name not in taken and name in cls._right_names]
    if not wrong or any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    # A class may lack the right argument too: a constant schedule has no floor.
    advice = [text for right, text in (cls._right_names[name] for name in wrong) if right in taken]
    if not advice:
        advice = [f"it takes {', '.join(list(taken)[1:])}"]
    raise TypeError(f"{cls.__name__} takes no {' and no '.join(wrong)}: {'; '.join(dict.fromkeys(advice))}")


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
