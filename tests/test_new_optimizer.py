"""A user's own optimizer takes one rule and one class, and no edit to the package; mistakes in it are named."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from torch_gd import ClipByGlobalNorm, ClipPolicy, FusedOptimizer

pytest.importorskip("triton")
import triton
import triton.language as tl

from torch_gd.optimizers import UpdateSpec
from torch_gd.triton_kernels.rule import Rule


def signum_scalars(step, hyperparameters):
    lr, momentum = hyperparameters
    return lr, momentum, 1 - momentum


@triton.jit
def signum_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    lr, momentum, one_minus_momentum = h
    momentum_buffer = momentum * state[0] + one_minus_momentum * g
    sign = tl.where(momentum_buffer > 0, 1.0, 0.0) - tl.where(momentum_buffer < 0, 1.0, 0.0)
    return p - lr * sign, (momentum_buffer,)


SIGNUM = Rule(signum_scalars, signum_update)


class Signum(FusedOptimizer):
    """Sign-SGD with momentum (Bernstein et al. 2018)."""

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.9, **more: Any) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum}, **more)

    @staticmethod
    def spec(group: dict[str, Any]) -> UpdateSpec:
        return UpdateSpec(SIGNUM, hyperparameters=("lr", "momentum"), state_names=("momentum_buffer",))


def test_signum_follows_its_formula(triton_device: torch.device) -> None:
    torch.manual_seed(0)
    params = [torch.randn(shape, device=triton_device).requires_grad_() for shape in ((3, 4), (5000,), ())]
    expected = [p.detach().clone() for p in params]
    buffers = [torch.zeros_like(p) for p in expected]
    optimizer = Signum([{"params": params[:1]}, {"params": params[1:], "lr": 0.1}])
    for _ in range(5):
        for p, q, buffer, lr in zip(params, expected, buffers, (1e-3, 0.1, 0.1)):
            p.grad = torch.randn_like(p)
            buffer.mul_(0.9).add_(p.grad, alpha=1 - 0.9)
            q.sub_(lr * buffer.sign())
        optimizer.step()
    for p, q in zip(params, expected):
        torch.testing.assert_close(p.detach(), q, rtol=0, atol=5 * 4 * torch.finfo(torch.float32).eps)


def test_without_kernels_the_error_says_what_to_do(torch_path: None) -> None:
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    with pytest.raises(
        RuntimeError, match=r"Signum: parameter 0 .* do not serve here; set TRITON_INTERPRET=1 .* torch_step"
    ):
        Signum([p]).step()


def with_spec(spec: Callable[[dict[str, Any]], Any]) -> type[FusedOptimizer]:
    """Return Signum with another spec."""
    return type("Mistaken", (Signum,), {"spec": staticmethod(spec)})


@triton.jit
def forgetful_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    return p - h[0] * g


MISTAKES = {
    "no spec": (NotImplementedError, r"must define spec\(group\)", lambda: type("Mistaken", (FusedOptimizer,), {})),
    "spec returns a rule": (
        TypeError,
        "must return a torch_gd.optimizers.UpdateSpec",
        lambda: with_spec(lambda _: SIGNUM),
    ),
    "a default is missing": (
        TypeError,
        "group 0 has no 'decay', which its spec.. needs.*add it to the defaults",
        lambda: with_spec(lambda _: UpdateSpec(SIGNUM, ("lr", "decay"), ("momentum_buffer",))),
    ),
    "no state names": (
        RuntimeError,
        r"is given 0 states, state_names=\(\)",
        lambda: with_spec(lambda _: UpdateSpec(SIGNUM, ("lr", "momentum"))),
    ),
    "the update returns no states": (
        RuntimeError,
        "must return the parameter and a tuple of as many",
        lambda: with_spec(lambda _: UpdateSpec(Rule(signum_scalars, forgetful_update), ("lr", "momentum"), ("m",))),
    ),
    "one hyperparameter too few": (
        RuntimeError,
        r"scalars are given the hyperparameters \('lr',\)",
        lambda: with_spec(lambda _: UpdateSpec(SIGNUM, ("lr",), ("momentum_buffer",))),
    ),
    "hyperparameters are one string": (
        TypeError,
        "takes a tuple of keys",
        lambda: with_spec(lambda _: UpdateSpec(SIGNUM, "lr")),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str, triton_device: torch.device) -> None:
    error, message, make = MISTAKES[mistake]
    p = torch.ones(2, device=triton_device).requires_grad_()
    p.grad = torch.ones_like(p)
    kind = make()
    with pytest.raises(error, match=message):
        (kind([p]) if issubclass(kind, Signum) else kind([p], {"lr": 0.1})).step()


def test_scalars_may_call_three_functions_only() -> None:
    def with_math(step, hyperparameters):
        return (math.sqrt(hyperparameters[0]),)

    with pytest.raises(TypeError, match=r"with_math uses math, sqrt; .* only power, square_root, choose"):
        Rule(with_math, signum_update)
    with pytest.raises(TypeError, match=r"no @triton.jit function; decorate it"):
        Rule(signum_scalars, lambda *values: values)


def inverse_scalars(step, hyperparameters):
    (lr,) = hyperparameters
    return (lr / step,)


@triton.jit
def inverse_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    return p - h[0] * g, state


def test_a_rule_without_states_may_count_steps(triton_device: torch.device) -> None:
    """The learning rate falls as 1 / step, which needs a counter and nothing else."""
    kind = with_spec(lambda _: UpdateSpec(Rule(inverse_scalars, inverse_update), ("lr",), counts_steps=True))
    p = torch.zeros(3, device=triton_device).requires_grad_()
    optimizer = kind([p], lr=1.0)
    for _ in range(4):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert list(optimizer.state[p]) == ["step"]
    # Four roundings of numbers up to 25/12.
    torch.testing.assert_close(p.detach(), torch.full_like(p, -(1 + 1 / 2 + 1 / 3 + 1 / 4)), rtol=0, atol=4 * 2.4e-7)


@triton.jit
def wrong_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    return p - h[0] * no_such_function(g), state  # noqa: F821


def one_too_many(step, hyperparameters):
    lr, _ = hyperparameters
    return (lr / step,)


@pytest.mark.parametrize("clip", [None, ClipByGlobalNorm(1.0, skip_nonfinite=True)], ids=["host", "device"])
@pytest.mark.parametrize("rule", [(inverse_scalars, wrong_update), (one_too_many, inverse_update)])
def test_a_step_that_fails_counts_nothing(
    rule: tuple[Any, Any], clip: ClipPolicy | None, triton_device: torch.device
) -> None:
    """Wherever the steps are counted: with `skip_nonfinite`, by a kernel."""
    kind = with_spec(lambda _: UpdateSpec(Rule(*rule), ("lr",), counts_steps=True))
    p = torch.zeros(3, device=triton_device).requires_grad_()
    p.grad = torch.ones_like(p)
    optimizer = kind([p], clip=clip)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="the rule failed"):
            optimizer.step()
    assert float(optimizer.state[p]["step"]) == 0
    assert torch.equal(p, torch.zeros_like(p))


@pytest.mark.parametrize(
    ("scalars", "message"),
    [
        (lambda step, h: (h[0] ** step,), r"uses \*\*, which kernels lacks?; call power"),
        (lambda step: (step,), r"must take \(step, hyperparameters\)"),
        (lambda step, h=(): (step,), "without defaults"),
        (max, "is no plain function"),
    ],
)
def test_scalars_that_a_kernel_could_not_run_are_refused(scalars: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Rule(scalars, signum_update)


def decaying_scalars(step, hyperparameters):
    lr, product = hyperparameters
    return (lr * product,)


def halves(step, hyperparameters):
    return (hyperparameters[0] * 0 + 0.5,)


def with_product(update: Any, **more: Any) -> type[FusedOptimizer]:
    """Return an optimizer whose learning rate is multiplied by a product, which each step halves."""
    options = {"counts_steps": True, "products": ("product",), **more}
    rule = Rule(decaying_scalars, update, halves)
    kind = with_spec(lambda _: UpdateSpec(rule, ("lr",), **options))
    kind.init_state = staticmethod(lambda group, p: {"product": torch.tensor(1.0)})  # type: ignore[method-assign]
    return kind


@pytest.mark.parametrize("clip", [None, ClipByGlobalNorm(9.0, skip_nonfinite=True)], ids=["host", "device"])
def test_a_rule_may_have_a_product_over_steps(clip: ClipPolicy | None, triton_device: torch.device) -> None:
    """It is advanced as the counter is, wherever that is, and not in a step that is left out."""
    p, q = (torch.zeros(3, device=triton_device).requires_grad_() for _ in range(2))
    optimizer = with_product(inverse_update)([p, q], lr=1.0, clip=clip)
    for step in range(4):
        p.grad = torch.full_like(p, torch.nan if step == 1 and clip is not None else 1.0)
        q.grad = None if step == 0 else p.grad.clone()
        optimizer.step()
    taken = 4 if clip is None else 3
    for one, count in ((p, taken), (q, 3 if clip is None else 2)):
        assert float(optimizer.state[one]["step"]) == count
        assert float(optimizer.state[one]["product"]) == 0.5**count
        assert torch.equal(one, torch.full_like(one, 0.5**count - 1))  # sums of powers of two, which are exact


@pytest.mark.parametrize("clip", [None, ClipByGlobalNorm(1.0, skip_nonfinite=True)], ids=["host", "device"])
def test_a_step_that_fails_multiplies_nothing(clip: ClipPolicy | None, triton_device: torch.device) -> None:
    p = torch.zeros(3, device=triton_device).requires_grad_()
    p.grad = torch.ones_like(p)
    optimizer = with_product(wrong_update)([p], clip=clip)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the rule failed"):
            optimizer.step()
    assert [float(value) for value in optimizer.state[p].values()] == [0.0, 1.0]


def test_products_that_do_not_fit_the_rule_are_named() -> None:
    rule = Rule(decaying_scalars, inverse_update, halves)
    with pytest.raises(TypeError, match=r"Invalid products: \(\); they must be as many as the rule's factors"):
        UpdateSpec(rule, ("lr",), counts_steps=True)
    with pytest.raises(TypeError, match="a rule with factors is given the step"):
        UpdateSpec(rule, ("lr",), products=("product",))
    with pytest.raises(TypeError, match=r"Invalid factors: .* is no plain function"):
        Rule(decaying_scalars, inverse_update, max)
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.ones(3)
    with pytest.raises(TypeError, match=r"init_state\(\) makes no 'other'"):
        with_product(inverse_update, products=("other",))([p]).step()
