"""What an update rule is: a few scalars derived from the hyperparameters, and one line of arithmetic an element.

Both halves are written once. `scalars` is plain Python run in double precision: on the host where the step counter
lives there, and compiled into a one-block prologue where counter or learning rate live on the GPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import triton
import triton.language as tl


@triton.jit
def power(base, exponent):
    return tl.exp(exponent * tl.log(base))


@triton.jit
def square_root(x):
    return tl.sqrt(x)


@triton.jit
def choose(condition, x, y):
    return tl.where(condition, x, y)


@triton.jit
def divide(x, y):
    """x / y, correctly rounded: plain division of float32 is approximate on a GPU."""
    if x.dtype == tl.float32:
        return tl.div_rn(x, y)
    else:
        return x / y


_ON_HOST = {"power": math.pow, "square_root": math.sqrt, "choose": lambda condition, x, y: x if condition else y}


@dataclass(frozen=True, eq=False)
class Rule:
    """An optimizer's arithmetic.

    Args:
        scalars: `scalars(step, hyperparameters)` returns what the update needs, derived in double. Of functions it may
            call `power`, `square_root` and `choose` only, which mean the same on the host and in a kernel.
        update: `update(p, g, state, h, options)`, a `@triton.jit` function of register values: parameter, gradient,
            tuple of states, tuple of scalars and compile-time options. Returns the new parameter and tuple of states.

    Example:
        >>> sign_sgd = Rule(scalars=lambda_free_function, update=jit_function)
        >>> sign_sgd.on_host(1.0, (0.1,))
    """

    scalars: Callable[..., Any]
    update: Any
    on_host: Callable[[float, tuple[float, ...]], tuple[float, ...]] = field(init=False)
    on_device: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "on_host", FunctionType(self.scalars.__code__, {**_ON_HOST, "__builtins__": {}}))
        object.__setattr__(self, "on_device", triton.jit(self.scalars))
