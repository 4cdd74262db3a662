"""The update rules. Each reads like the line in its paper, without pointers, masks or dtypes.

A `scalars` function derives an update's constants in double from `lr`, `beta1` and so on. The update itself is float32
arithmetic (float64 for float64 parameters) in the same order as torch's. Division and square root are IEEE's, unless
everything that is read and stored is half precision.
"""

import triton
import triton.language as tl

from .rule import Rule, choose, divide, power, root, square_root


@triton.jit
def lerp(start, end, weight):
    """Return torch.lerp, with both of its branches, so that it is exact at weight 0 and at weight 1."""
    small = tl.abs(weight) < 0.5
    return tl.where(small, start, end) + tl.where(small, weight, weight - 1) * (end - start)


@triton.jit
def add_l2(g, p, weight_decay):
    """Return g + weight_decay · p; without decay, g alone, since 0 · inf would be NaN."""
    return tl.where(weight_decay != 0, g + weight_decay * p, g)


@triton.jit
def decayed(p, g, weight_decay, decay, decoupled: tl.constexpr):
    """Return parameter and gradient after weight decay, of the parameter itself if decoupled."""
    if decoupled:
        return p * decay, g
    else:
        return p, add_l2(g, p, weight_decay)


# --- SGD (Robbins & Monro 1951), momentum (Polyak 1964), Nesterov's (1983) as in Sutskever et al. 2013 ---------------


def sgd_scalars(step, hyperparameters):
    lr, weight_decay = hyperparameters
    return lr, weight_decay


@triton.jit
def sgd_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    lr, weight_decay = h
    return p - lr * add_l2(g, p, weight_decay), state


def momentum_scalars(step, hyperparameters):
    lr, weight_decay, momentum, dampening = hyperparameters
    return lr, weight_decay, momentum, choose(step == 1, 1, 1 - dampening)  # the first buffer is the bare gradient


@triton.jit
def momentum_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    lr, weight_decay, momentum, one_minus_dampening = h
    nesterov: tl.constexpr = options[0]
    g = add_l2(g, p, weight_decay)
    momentum_buffer = momentum * state[0] + one_minus_dampening * g
    if nesterov:
        p = p - lr * (g + momentum * momentum_buffer)
    else:
        p = p - lr * momentum_buffer
    return p, (momentum_buffer,)


def sgdw_scalars(step, hyperparameters):
    lr, weight_decay, momentum, dampening = hyperparameters
    return lr, 1 - lr * weight_decay, momentum, choose(step == 1, 1, 1 - dampening)


@triton.jit
def sgdw_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    lr, decay, momentum, one_minus_dampening = h
    if len(state) == 0:
        return p * decay - lr * g, state
    else:
        return momentum_update(p * decay, g, state, (lr, 0.0, momentum, one_minus_dampening), options, exact)


# --- Adagrad (Duchi, Hazan & Singer 2011), Adadelta (Zeiler 2012) --------------------------------------------------


def adagrad_scalars(step, hyperparameters):
    lr, lr_decay, weight_decay, eps = hyperparameters
    return lr / (1 + (step - 1) * lr_decay), weight_decay, eps


@triton.jit
def adagrad_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    lr, weight_decay, eps = h
    g = add_l2(g, p, weight_decay)
    sum = state[0] + g * g
    return p - lr * divide(g, root(sum, exact) + eps, exact), (sum,)


def adadelta_scalars(step, hyperparameters):
    lr, rho, eps, weight_decay = hyperparameters
    return lr, rho, 1 - rho, eps, weight_decay


@triton.jit
def adadelta_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    lr, rho, one_minus_rho, eps, weight_decay = h
    g = add_l2(g, p, weight_decay)
    square_avg = rho * state[0] + one_minus_rho * g * g
    deviation = root(square_avg + eps, exact)
    delta = divide(root(state[1] + eps, exact), deviation, exact) * g
    return p - lr * delta, (square_avg, rho * state[1] + one_minus_rho * delta * delta)


# --- RMSprop (Hinton 2012), centered (Graves 2013) ------------------------------------------------------------------


def rmsprop_scalars(step, hyperparameters):
    lr, alpha, eps, weight_decay, momentum = hyperparameters
    return lr, alpha, 1 - alpha, eps, weight_decay, momentum


@triton.jit
def rmsprop_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    lr, alpha, one_minus_alpha, eps, weight_decay, momentum = h
    centered: tl.constexpr = options[0]
    with_momentum: tl.constexpr = options[1]
    g = add_l2(g, p, weight_decay)
    square_avg = alpha * state[0] + one_minus_alpha * g * g
    new_state = (square_avg,)
    variance = square_avg
    if centered:
        grad_avg = lerp(state[1], g, one_minus_alpha)
        new_state = new_state + (grad_avg,)
        variance = square_avg - grad_avg * grad_avg
    step = divide(g, root(variance, exact) + eps, exact)
    if with_momentum:
        step = momentum * state[len(state) - 1] + step
        new_state = new_state + (step,)
    return p - lr * step, new_state


# --- Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019), AMSGrad (Reddi, Kale & Kumar 2018) --------------------


def adam_scalars(step, hyperparameters):
    lr, beta1, beta2, eps, weight_decay = hyperparameters
    step_size = lr / (1 - power(beta1, step))
    return step_size, 1 - beta1, beta2, 1 - beta2, square_root(1 - power(beta2, step)), eps, weight_decay


@triton.jit
def adam_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    step_size, one_minus_beta1, beta2, one_minus_beta2, bias2_sqrt, eps, weight_decay = h
    amsgrad: tl.constexpr = options[0]
    g = add_l2(g, p, weight_decay)
    exp_avg = lerp(state[0], g, one_minus_beta1)
    exp_avg_sq = beta2 * state[1] + one_minus_beta2 * g * g
    new_state = (exp_avg, exp_avg_sq)
    second_moment = exp_avg_sq
    if amsgrad:
        second_moment = tl.maximum(state[2], exp_avg_sq, propagate_nan=tl.PropagateNan.ALL)
        new_state = new_state + (second_moment,)
    denominator = divide(root(second_moment, exact), bias2_sqrt, exact) + eps
    return p - step_size * divide(exp_avg, denominator, exact), new_state


def adamw_scalars(step, hyperparameters):
    lr, beta1, beta2, eps, weight_decay = hyperparameters
    step_size = lr / (1 - power(beta1, step))
    return step_size, 1 - beta1, beta2, 1 - beta2, square_root(1 - power(beta2, step)), eps, 1 - lr * weight_decay


@triton.jit
def adamw_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    step_size, one_minus_beta1, beta2, one_minus_beta2, bias2_sqrt, eps, decay = h
    without_l2 = (step_size, one_minus_beta1, beta2, one_minus_beta2, bias2_sqrt, eps, 0.0)
    return adam_update(p * decay, g, state, without_l2, options, exact)


# --- Adamax (Kingma & Ba 2015) --------------------------------------------------------------------------------------


def adamax_scalars(step, hyperparameters):
    lr, beta1, beta2, eps, weight_decay = hyperparameters
    return lr / (1 - power(beta1, step)), 1 - beta1, beta2, eps, weight_decay


@triton.jit
def adamax_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    step_size, one_minus_beta1, beta2, eps, weight_decay = h
    g = add_l2(g, p, weight_decay)
    exp_inf = tl.maximum(beta2 * state[1], tl.abs(g) + eps, propagate_nan=tl.PropagateNan.ALL)
    exp_avg = lerp(state[0], g, one_minus_beta1)
    return p - divide(step_size * exp_avg, exp_inf, exact), (exp_avg, exp_inf)


# --- NAdam (Dozat 2016), RAdam (Liu et al. 2020) --------------------------------------------------------------------


def nadam_factors(step, hyperparameters):
    beta1, momentum_decay = hyperparameters[1], hyperparameters[5]
    return (beta1 * (1 - 0.5 * power(0.96, step * momentum_decay)),)


def nadam_scalars(step, hyperparameters):
    lr, beta1, beta2, eps, weight_decay, momentum_decay, mu_product = hyperparameters
    mu = beta1 * (1 - 0.5 * power(0.96, step * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * power(0.96, (step + 1) * momentum_decay))
    of_grad, of_avg = lr * (1 - mu) / (1 - mu_product), lr * mu_next / (1 - mu_product * mu_next)
    bias2 = 1 - power(beta2, step)
    return of_grad, of_avg, 1 - beta1, beta2, 1 - beta2, bias2, eps, weight_decay, 1 - lr * weight_decay


@triton.jit
def nadam_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    of_grad, of_avg, one_minus_beta1, beta2, one_minus_beta2, bias2, eps, weight_decay, decay = h
    p, g = decayed(p, g, weight_decay, decay, options[0])
    exp_avg = lerp(state[0], g, one_minus_beta1)
    exp_avg_sq = beta2 * state[1] + one_minus_beta2 * g * g
    denominator = root(divide(exp_avg_sq, bias2, exact), exact) + eps
    return p - divide(of_grad * g + of_avg * exp_avg, denominator, exact), (exp_avg, exp_avg_sq)


def radam_scalars(step, hyperparameters):
    lr, beta1, beta2, eps, weight_decay = hyperparameters
    bias2 = 1 - power(beta2, step)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * power(beta2, step) / bias2  # of the average that exp_avg_sq amounts to
    adapts = length > 5
    rectified = choose(adapts, (length - 4) * (length - 2) * longest, 0.0)
    rectified = square_root(rectified / choose(adapts, (longest - 4) * (longest - 2) * length, 1.0))
    step_size = lr / (1 - power(beta1, step))
    adaptive, plain = step_size * rectified * square_root(bias2), choose(adapts, 0.0, step_size)
    return adaptive, plain, 1 - beta1, beta2, 1 - beta2, eps, weight_decay, 1 - lr * weight_decay


@triton.jit
def radam_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    adaptive, plain, one_minus_beta1, beta2, one_minus_beta2, eps, weight_decay, decay = h
    p, g = decayed(p, g, weight_decay, decay, options[0])
    exp_avg = lerp(state[0], g, one_minus_beta1)
    exp_avg_sq = beta2 * state[1] + one_minus_beta2 * g * g
    rate = tl.where(adaptive != 0, divide(adaptive, root(exp_avg_sq, exact) + eps, exact), plain)
    return p - rate * exp_avg, (exp_avg, exp_avg_sq)


# --- Lion (Chen et al. 2023) ----------------------------------------------------------------------------------------


def lion_scalars(step, hyperparameters):
    lr, beta1, beta2, weight_decay = hyperparameters
    return lr, 1 - beta1, 1 - beta2, 1 - lr * weight_decay


@triton.jit
def lion_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    lr, one_minus_beta1, one_minus_beta2, decay = h
    update = lerp(state[0], g, one_minus_beta1)
    sign = tl.where(update > 0, 1.0, 0.0) - tl.where(update < 0, 1.0, 0.0)
    return p * decay - lr * sign, (lerp(state[0], g, one_minus_beta2),)


SGD = Rule(sgd_scalars, sgd_update)
MOMENTUM = Rule(momentum_scalars, momentum_update)
SGDW = Rule(sgdw_scalars, sgdw_update)
ADAGRAD = Rule(adagrad_scalars, adagrad_update)
ADADELTA = Rule(adadelta_scalars, adadelta_update)
RMSPROP = Rule(rmsprop_scalars, rmsprop_update)
ADAM = Rule(adam_scalars, adam_update)
ADAMW = Rule(adamw_scalars, adamw_update)
ADAMAX = Rule(adamax_scalars, adamax_update)
NADAM = Rule(nadam_scalars, nadam_update, nadam_factors)
RADAM = Rule(radam_scalars, radam_update)
LION = Rule(lion_scalars, lion_update)
