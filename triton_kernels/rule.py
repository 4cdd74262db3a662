"""An update rule: a few scalars derived from the hyperparameters, and the arithmetic of one element.

Both halves are written once. The function `scalars` is plain Python in double precision. It runs on the host if the
step counter lives there, and is compiled into the prologue kernel if the counter or the learning rate lives on the GPU.
"""

import dis
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, TypeAlias

import triton
import triton.language as tl


@triton.jit
def power(base, exponent):
    return tl.exp(exponent * tl.log(exponent * 0 + base))  # 0 · exponent makes a plain number double, too


@triton.jit
def square_root(x):
    return tl.sqrt(x)


@triton.jit
def choose(condition, x, y):
    return tl.where(condition, x, y)


@triton.jit
def divide(x, y, exact: tl.constexpr = True):
    """Return x / y, correctly rounded if `exact`; else within two ulps on a GPU, if the reciprocal of y is finite."""
    if exact and x.dtype == tl.float32:
        return tl.div_rn(x, y)
    elif not exact and len(y.shape) == 0:
        return x * tl.div_rn(tl.full((), 1.0, y.dtype), y)  # one division for all elements
    else:
        return x / y


@triton.jit
def root(x, exact: tl.constexpr = True):
    """Return the square root, correctly rounded if `exact`; else within two ulps on a GPU, over all of float32."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    elif exact:
        return tl.sqrt_rn(x)
    else:
        # A GPU's approximate root takes subnormal numbers for zero.
        small = x < 2.0**-100
        near = tl.sqrt(tl.where(small, x * 2.0**64, x))
        return tl.where(small, near * 2.0**-32, near)


OnHost: TypeAlias = Callable[[float, tuple[float, ...]], tuple[float, ...]]
_ON_HOST = {"power": math.pow, "square_root": math.sqrt, "choose": lambda condition, x, y: x if condition else y}


@dataclass(frozen=True, eq=False)
class Rule:
    """An optimizer's arithmetic.

    Args:
        scalars: `scalars(step, hyperparameters)` returns the scalars that the update needs, derived in double. It may
            call the functions `power`, `square_root` and `choose` of this module, which mean the same on the host and
            in a kernel, and no others; for the operator `**`, call `power`.
        update: `update(p, g, state, h, options, exact)`, a `@triton.jit` function of register values: the parameter,
            its gradient, the tuple of states, the tuple of scalars, the compile-time options, and whether `divide` and
            `root` are to be correctly rounded. It returns the new parameter and the tuple of new states.
        factors: for products over all steps, as NAdam has one of its momenta: `factors(step, hyperparameters)` returns
            the tuple of this step's factors, and has the same limits as `scalars`. That is given the products as the
            last of its hyperparameters.

    Raises:
        TypeError: `scalars` or `factors` uses a name that a rule may not use, or `update` is not a `@triton.jit`
            function.

    Example:
        >>> from torch_gd.triton_kernels.rule import Rule
        >>> from torch_gd.triton_kernels.rules import sgd_scalars, sgd_update
        >>> rule = Rule(sgd_scalars, sgd_update)
        >>> rule.on_host(1.0, (0.1, 0.0))  # step; learning rate and weight decay
        (0.1, 0.0)
    """

    scalars: Callable[..., Any]
    update: Any
    factors: Callable[..., Any] | None = None
    on_host: OnHost = field(init=False)
    on_device: Any = field(init=False)
    factors_on_host: OnHost = field(init=False)
    factors_on_device: Any = field(init=False)

    def __post_init__(self) -> None:
        check_scalars("scalars", self.scalars)
        if self.factors is not None:
            check_scalars("factors", self.factors)
        _check_takes("update", self.update, _OF_ELEMENTS)
        for where, function in (("on", self.scalars), ("factors_on", self.factors)):
            on_host = function and FunctionType(function.__code__, {**_ON_HOST, "__builtins__": {}})
            object.__setattr__(self, f"{where}_host", on_host)
            object.__setattr__(self, f"{where}_device", function and triton.jit(function))


def check_scalars(name: str, function: Any) -> None:
    """Raise `TypeError` for a function of a rule that could not be both run on the host and compiled."""
    if not isinstance(function, FunctionType):
        raise TypeError(f"Invalid {name}: {function!r} is no plain function")
    code = function.__code__
    if code.co_argcount != 2 or function.__defaults__:
        raise TypeError(f"Invalid {name}: {code.co_name} must take (step, hyperparameters), without defaults")
    if any(op.argrepr in ("**", "**=") for op in dis.get_instructions(code) if op.opname == "BINARY_OP") or any(
        op.opname.endswith("_POWER")
        for op in dis.get_instructions(code)  # Python 3.10's name
    ):
        raise TypeError(f"Invalid {name}: {code.co_name} uses **, which kernels lack; call power(base, exponent)")
    unknown = sorted({*code.co_names, *code.co_freevars} - set(_ON_HOST))
    if unknown:
        raise TypeError(
            f"Invalid {name}: {code.co_name} uses {', '.join(unknown)}; of functions and globals it may use only "
            f"{', '.join(_ON_HOST)} of torch_gd.triton_kernels.rule, since it is also compiled into a kernel"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerRule(Rule):
    """The arithmetic of a layer-wise optimizer, which scales the step of each tensor by a ratio of two norms.

    `update` is given the scaled step in place of the gradient. An element-wise rule is the case whose step is the
    gradient itself, not scaled; so LARS takes SGD's update. One launch measures, a small one finds the ratios, and a
    third one applies them. The step is not stored between these, but derived again.

    Args:
        scalars: as of `Rule`.
        update: as of `Rule`, with the scaled step for `g`.
        direction: `direction(p, g, state, h, options, exact)` returns the step before it is scaled.
        trust: `trust(p_norm, x_norm, h)` returns the ratio that scales it, in double; x is what is measured.
        advance: `advance(p, g, state, h, options, exact)` returns the new states, where these do not wait for the
            ratio; `direction` is then given them, `update` returns them as they are, and x is the direction. If there
            is none, `update` makes the states, and x is the gradient.

    Raises:
        TypeError: as of `Rule`; a function that is no `@triton.jit` function, or takes other arguments.

    Example:
        >>> from torch_gd.triton_kernels import layer_rules
        >>> layer_rules.LARS.advance is None, layer_rules.LAMB.advance is None
        (True, False)
    """

    direction: Any
    trust: Any
    advance: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_takes("direction", self.direction, _OF_ELEMENTS)
        _check_takes("trust", self.trust, ("p_norm", "x_norm", "h"))
        if self.advance is not None:
            _check_takes("advance", self.advance, _OF_ELEMENTS)


_OF_ELEMENTS = ("p", "g", "state", "h", "options", "exact")


def _check_takes(name: str, function: Any, arguments: tuple[str, ...]) -> None:
    if not hasattr(function, "fn"):
        raise TypeError(f"Invalid {name}: {function!r} is no @triton.jit function; decorate it")
    takes = list(inspect.signature(function.fn).parameters)
    if len(takes) != len(arguments):
        must = ", ".join(arguments)
        raise TypeError(f"Invalid {name}: {function.fn.__name__} takes ({', '.join(takes)}); it must take ({must})")
