"""The rules of layer-wise optimizers: what scales each tensor's step, and the step itself. See `rule.LayerRule`."""

import triton
import triton.language as tl

from .rule import LayerRule, choose, divide, power, root, square_root
from .rules import add_l2, momentum_update, sgd_update

# --- LAMB (You et al. 2020) -------------------------------------------------------------------------------------------


@triton.jit
def ratio_or_one(p_norm, x_norm, ratio, adapts):
    """Return 1 for the ratio where a norm is zero, where it is not finite, or where the group is not to be adapted."""
    usable = (p_norm > 0) & (x_norm > 0) & (ratio < float("inf"))
    return tl.where(usable & (adapts != 0), ratio, 1.0)


def lamb_scalars(step, hyperparameters):
    (
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        bias_correction,
        grad_averaging,
        adam_w_mode,
        decoupled_weight_decay,
        always_adapt,
        least_norm,
        largest_norm,
        max_trust,
    ) = hyperparameters
    bias1 = choose(bias_correction != 0, 1 - power(beta1, step), 1)
    bias2_sqrt = choose(bias_correction != 0, square_root(1 - power(beta2, step)), 1)
    l2 = choose(adam_w_mode != 0, 0, weight_decay)
    inside = choose(decoupled_weight_decay != 0, 0, weight_decay - l2)
    return (
        lr,
        beta1,
        choose(grad_averaging != 0, 1 - beta1, 1),
        beta2,
        1 - beta2,
        l2,
        bias1 / bias2_sqrt,
        bias1 * eps,
        inside,
        choose(decoupled_weight_decay != 0, 1 - lr * weight_decay, 1),
        choose(weight_decay != 0, 1, always_adapt),
        least_norm,
        largest_norm,
        max_trust,
    )


@triton.jit
def lamb_advance(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    _, beta1, share1, beta2, share2, l2, _, _, _, _, _, _, _, _ = h
    with_l2: tl.constexpr = options[0]
    if with_l2:
        g = add_l2(g, p, l2)
    return beta1 * state[0] + share1 * g, beta2 * state[1] + share2 * g * g


@triton.jit
def lamb_direction(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    _, _, _, _, _, _, correction, corrected_eps, inside, _, _, _, _, _ = h
    return add_l2(divide(state[0], correction * root(state[1], exact) + corrected_eps, exact), p, inside)


@triton.jit
def lamb_trust(p_norm, x_norm, h):
    _, _, _, _, _, _, _, _, _, decay, adapts, least_norm, largest_norm, max_trust = h
    phi = tl.minimum(tl.maximum(decay * p_norm, least_norm), largest_norm)
    return tl.minimum(ratio_or_one(p_norm, x_norm, phi / x_norm, adapts), max_trust)


@triton.jit
def lamb_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    lr, _, _, _, _, _, _, _, _, decay, _, _, _, _ = h
    return decay * p - lr * g, state


# --- LARS (You, Gitman & Ginsburg 2017): the updates are SGD's -------------------------------------------------------


def lars_scalars(step, hyperparameters):
    lr, momentum, dampening, weight_decay, trust_coeff, eps, lr_in_momentum, always_adapt, trust_clip = hyperparameters
    return (
        choose(lr_in_momentum != 0, 1, lr),
        momentum,
        choose(step == 1, 1, 1 - dampening),  # the first buffer is the bare step
        weight_decay,
        trust_coeff,
        eps,
        choose(lr_in_momentum != 0, lr, 1),
        choose(weight_decay != 0, 1, always_adapt),
        trust_clip,
        lr,
    )


@triton.jit
def lars_direction(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    return add_l2(g, p, h[3])


@triton.jit
def lars_trust(p_norm, x_norm, h):
    _, _, _, weight_decay, trust_coeff, eps, lr_inside, adapts, trust_clip, lr = h
    ratio = trust_coeff * p_norm / (x_norm + weight_decay * p_norm + eps)
    ratio = ratio_or_one(p_norm, x_norm, ratio, adapts)
    ratio = tl.where((trust_clip != 0) & (adapts != 0), tl.minimum(ratio / lr, 1.0), ratio)
    return lr_inside * ratio


@triton.jit
def lars_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    return sgd_update(p, g, state, (h[0], 0.0), options, exact)


@triton.jit
def lars_momentum_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    return momentum_update(p, g, state, (h[0], 0.0, h[1], h[2]), options, exact)


LAMB = LayerRule(lamb_scalars, lamb_update, direction=lamb_direction, trust=lamb_trust, advance=lamb_advance)
LARS = LayerRule(lars_scalars, lars_update, direction=lars_direction, trust=lars_trust)
LARS_MOMENTUM = LayerRule(lars_scalars, lars_momentum_update, direction=lars_direction, trust=lars_trust)
