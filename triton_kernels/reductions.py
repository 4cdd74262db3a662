"""Kernels for norms of many tensors at once: partial sums by chunk, then the norms. Deterministic, since no atomics.

A norm's `order` is compiled in: as an argument of a kernel it would be float32.
"""

import triton
import triton.language as tl

from .codecs import pointer_to
from .multi_tensor import HEAD
from .rule import divide


@triton.jit
def _accumulate(total, x, order: tl.constexpr):
    """Add more elements to a running sum of powers, or to a maximum; NaN stays NaN."""
    if order == 2.0:
        return total + x * x
    elif order == 1.0:
        return total + tl.abs(x)
    elif order == float("inf"):
        return tl.maximum(total, tl.abs(x), propagate_nan=tl.PropagateNan.ALL)
    else:
        return total + tl.where(x == 0, 0.0, tl.exp(order * tl.log(tl.abs(x))))


@triton.jit
def _together(lanes, order: tl.constexpr):
    """Return the sum or maximum of a block's lanes, in double."""
    if order == float("inf"):
        any_nan = tl.sum((lanes != lanes).to(tl.int32), axis=0) > 0
        return tl.where(any_nan, float("nan"), tl.max(lanes, axis=0).to(tl.float64))
    else:
        return tl.sum(lanes.to(tl.float64), axis=0)


@triton.jit
def _root_of(total, order: tl.constexpr):
    """Return the norm that belongs to a sum of powers or a maximum."""
    if order == 2.0:
        return tl.sqrt(total)
    elif order == 1.0 or order == float("inf"):
        return total
    else:
        return tl.where(total == 0, 0.0, tl.exp(tl.log(total) / order))


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["partials"])
def partial_kernel(
    table,
    chunks,
    partials,
    n,
    column: tl.constexpr,
    dtype: tl.constexpr,
    compute: tl.constexpr,
    order: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the sum of powers (or the maximum) of one chunk of one tensor, whose address stands in `column`."""
    program = tl.program_id(0).to(tl.int64)
    tensor = tl.load(chunks + 2 * program).to(tl.int64)
    start = tl.load(chunks + 2 * program + 1).to(tl.int64) * CHUNK
    numel = tl.load(table + tensor)
    address = tl.load(table + column * n + tensor)
    total = tl.zeros((BLOCK,), dtype=compute)
    if (address & 15) == 0 and start + CHUNK <= numel:
        aligned = pointer_to(address, dtype, 128 // dtype.primitive_bitwidth) + start + tl.arange(0, BLOCK)
        for done in range(0, CHUNK, BLOCK):
            total = _accumulate(total, tl.load(aligned + done).to(compute), order)
    else:
        end = tl.minimum(start + CHUNK, numel)
        pointer = pointer_to(address, dtype, 1)
        first = start
        while first < end:
            offsets = first + tl.arange(0, BLOCK)
            x = tl.load(pointer + offsets, mask=offsets < end, other=0.0).to(compute)
            total = _accumulate(total, x, order)
            first += BLOCK
    tl.store(partials + program, _together(total, order))


@triton.jit
def _sum_partials(partials, first, last, order: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    while first < last:
        places = first + tl.arange(0, BLOCK)
        more = tl.load(partials + places, mask=places < last, other=0.0)
        if order == float("inf"):
            total = tl.maximum(total, more, propagate_nan=tl.PropagateNan.ALL)
        else:
            total = total + more
        first += BLOCK
    return _together(total, order)


@triton.jit
def tensor_norm_kernel(partials, firsts, norms, order: tl.constexpr, BLOCK: tl.constexpr):
    """Store the norm of one tensor, whose partial sums lie side by side from firsts[tensor] on."""
    tensor = tl.program_id(0)
    total = _sum_partials(partials, tl.load(firsts + tensor), tl.load(firsts + tensor + 1), order, BLOCK)
    tl.store(norms + tensor, _root_of(total, order).to(norms.dtype.element_ty))


@triton.jit(do_not_specialize=["n", "count"])
def ratio_kernel(
    table,
    scalars,
    firsts,
    partials,
    out,
    n,
    count,
    trust: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the ratio that scales the step of one tensor, or without `trust` its two sums of squares, in two rows.

    `partials` has two rows of `count` partial sums, of the parameters and of what is measured besides. Those of a
    tensor lie side by side from firsts[tensor] on; without `firsts` there is one a tensor.
    """
    tensor = tl.program_id(0).to(tl.int64)
    first = tensor
    last = tensor + 1
    if firsts is not None:
        first = tl.load(firsts + tensor)
        last = tl.load(firsts + tensor + 1)
    p_total = _sum_partials(partials, first, last, 2.0, BLOCK)
    x_total = _sum_partials(partials + count, first, last, 2.0, BLOCK)
    if trust is None:
        tl.store(out + tensor, p_total)
        tl.store(out + n + tensor, x_total)
    else:
        row = scalars + tl.load(table + n + tensor) * WIDTH
        h = ()
        for i in tl.static_range(HEAD, WIDTH):
            h = h + (tl.load(row + i).to(tl.float64),)
        tl.store(out + tensor, trust(tl.sqrt(p_total), tl.sqrt(x_total), h))


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["result", "grad_scale", "found_inf"])
def coefficient_kernel(
    partials,
    result,
    grad_scale,
    found_inf,
    settings,
    count,
    order: tl.constexpr,
    skip_nonfinite: tl.constexpr,
    compute: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Fill `result`, in double: total norm, clipping coefficient, whether to skip the step, steps skipped so far.

    `settings` holds, in double as well, the largest norm that is let through.
    """
    first = tl.program_id(0).to(tl.int64)  # 0: there is one program
    total = _root_of(_sum_partials(partials, first, count, order, BLOCK), order)
    if grad_scale is not None:
        total = total / tl.load(grad_scale).to(tl.float64)
    norm = total.to(compute)
    # As torch divides a number by a tensor; the 1e-6 is its own, too.
    coefficient = divide(tl.full((), 1.0, compute), norm + 1e-6) * tl.load(settings).to(compute)
    coefficient = tl.minimum(coefficient, 1.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(result, norm.to(tl.float64))
    tl.store(result + 1, coefficient.to(tl.float64))
    skip = tl.full((), 0.0, tl.float64)
    if found_inf is not None:
        skip = tl.where(tl.load(found_inf) != 0, 1.0, 0.0).to(tl.float64)
    if skip_nonfinite:
        skip = tl.where((norm != norm) | (tl.abs(norm) == float("inf")), 1.0, skip)
        tl.store(result + 3, tl.load(result + 3) + skip)
    if skip_nonfinite or found_inf is not None:
        tl.store(result + 2, skip)


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["grad_scale"])
def unit_kernel(
    table,
    map_of_units,
    units,
    coefficients,
    grad_scale,
    settings,
    n,
    p_dtype: tl.constexpr,
    g_dtype: tl.constexpr,
    compute: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the coefficient of one unit for adaptive clipping: a row of a matrix, a filter, or a whole vector.

    `settings` holds, in double, how large a gradient's norm may be beside its parameter's, and the least norm that a
    parameter counts for.
    """
    program = tl.program_id(0).to(tl.int64)
    tensor = tl.load(map_of_units + 2 * program).to(tl.int64)
    size = tl.load(units + tensor)
    start = tl.load(map_of_units + 2 * program + 1).to(tl.int64) * size
    p_ptr = pointer_to(tl.load(table + 2 * n + tensor), p_dtype, 1)
    g_ptr = pointer_to(tl.load(table + 3 * n + tensor), g_dtype, 1)
    p_total = tl.zeros((BLOCK,), dtype=compute)
    g_total = tl.zeros((BLOCK,), dtype=compute)
    first = start
    while first < start + size:
        offsets = first + tl.arange(0, BLOCK)
        inside = offsets < start + size
        p = tl.load(p_ptr + offsets, mask=inside, other=0.0).to(compute)
        g = tl.load(g_ptr + offsets, mask=inside, other=0.0).to(compute)
        p_total += p * p
        g_total += g * g
        first += BLOCK
    p_norm = tl.sqrt(_together(p_total, 2.0))
    g_norm = tl.sqrt(_together(g_total, 2.0))
    if grad_scale is not None:
        g_norm = g_norm / tl.load(grad_scale).to(tl.float64)
    max_norm = tl.maximum(p_norm, tl.load(settings + 1), propagate_nan=tl.PropagateNan.ALL) * tl.load(settings)
    clipped = max_norm / tl.maximum(g_norm, 1e-6, propagate_nan=tl.PropagateNan.ALL)
    tl.store(coefficients + program, tl.where(g_norm < max_norm, 1.0, clipped))
