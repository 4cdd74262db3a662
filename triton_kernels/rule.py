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
def divide(x, y, exact: tl.constexpr = True):
    """x / y: correctly rounded if `exact`; else within two ulps on a GPU, for any y whose reciprocal is finite."""
    if exact and x.dtype == tl.float32:
        return tl.div_rn(x, y)
    elif not exact and len(y.shape) == 0:
        return x * tl.div_rn(tl.full((), 1.0, y.dtype), y)  # one division for all elements
    else:
        return x / y


@triton.jit
def root(x, exact: tl.constexpr = True):
    """Square root: correctly rounded if `exact`; else within two ulps on a GPU, over float32's whole range."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    elif exact:
        return tl.sqrt_rn(x)
    else:
        # A GPU's approximate root takes subnormal numbers for zero.
        small = x < 2.0**-100
        near = tl.sqrt(tl.where(small, x * 2.0**64, x))
        return tl.where(small, near * 2.0**-32, near)


_ON_HOST = {"power": math.pow, "square_root": math.sqrt, "choose": lambda condition, x, y: x if condition else y}


@dataclass(frozen=True, eq=False)
class Rule:
    """An optimizer's arithmetic.

    Args:
        scalars: `scalars(step, hyperparameters)` returns what the update needs, derived in double. Of functions it may
            call `power`, `square_root` and `choose` only, which mean the same on the host and in a kernel.
        update: `update(p, g, state, h, options, exact)`, a `@triton.jit` function of register values: parameter,
            gradient, tuple of states, tuple of scalars, compile-time options, and whether `divide` and `root` are to be
            correctly rounded. Returns the new parameter and tuple of states.

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
