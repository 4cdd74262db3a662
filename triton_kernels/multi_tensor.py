"""The multi-tensor kernels: one launch updates any number of tensors, in any number of groups. They know no algorithm.

They read a table on the device, which has a column for each thing that is known of a tensor (`launch.py` fills it), and
a map that gives each program its tensor and its chunk of that tensor.
"""

import triton
import triton.language as tl

from .codecs import noise_of, pointer_to, stored
from .rule import divide

HEAD = tl.constexpr(4)  # scalars of a row before the rule's: the gradient's factor and bound, what L1 takes, the step


@triton.jit
def _work_on_chunk(
    addresses,
    place,
    noise,
    row,
    scale,
    ratio,
    h,
    unit_coefficients,
    unit_size,
    update: tl.constexpr,
    direction: tl.constexpr,
    advance: tl.constexpr,
    rule_options: tl.constexpr,
    codecs: tl.constexpr,
    compute: tl.constexpr,
    exact: tl.constexpr,
    by_value: tl.constexpr,
    l1: tl.constexpr,
    stores: tl.constexpr,
    measuring: tl.constexpr,
    COLUMNS: tl.constexpr,
    each: tl.constexpr,
):
    """Update some elements; if measuring, only advance states, and return what the squares are to be summed of."""
    x = ()
    columns = ()
    for i in tl.static_range(COLUMNS):
        pointers = (pointer_to(addresses[i][0], codecs[i].dtype, each),)
        if codecs[i].rest is not None:
            pointers = pointers + (pointer_to(addresses[i][1], codecs[i].rest, each),)
        columns = columns + (pointers,)
        x = x + (codecs[i].decode(pointers, place, codecs[i].option),)
    p = x[0].to(compute)
    g = x[1].to(compute) * scale
    state = ()
    for i in tl.static_range(2, COLUMNS):
        state = state + (x[i].to(compute),)
    if unit_coefficients is not None:
        g = g * tl.load(unit_coefficients + place[0] // unit_size, mask=place[1]).to(compute)
    if by_value:
        bound = tl.load(row + 1)
        g = tl.where(g > bound, bound, tl.where(g < -bound, -bound, g)) * tl.load(row)  # NaN stays NaN
    if advance is not None:
        state = advance(p, g, state, h, rule_options, exact)
    if measuring and stores:
        found = ()
        for i in tl.static_range(2, COLUMNS):
            rounded = stored(state[i - 2], codecs[i].dtype)  # the codecs are plain
            tl.store(columns[i][0] + place[0], rounded, mask=place[1])
            found = found + (rounded.to(compute),)  # which is what the other pass will find
        state = found
    if direction is not None:
        g = direction(p, g, state, h, rule_options, exact)
    if not measuring:
        if direction is not None:
            g = ratio * g
        p, state = update(p, g, state, h, rule_options, exact)
        if l1:
            shrunk = tl.maximum(tl.abs(p) - tl.load(row + 2), 0.0, propagate_nan=tl.PropagateNan.ALL)
            p = tl.where(p < 0, -shrunk, shrunk)
        codecs[0].encode(p, columns[0], place, noise, codecs[0].option, each)
        if stores:
            for i in tl.static_range(2, COLUMNS):
                shifted = noise
                if codecs[i].noisy:
                    shifted = noise + i * 0x1F83D9AB  # or columns would round up together
                codecs[i].encode(state[i - 2], columns[i], place, shifted, codecs[i].option, each)
    return p, g


@triton.jit
def _leave_sums(partials, p_squares, x_squares):
    """Store a program's two sums, at a place of its own, so that it does not matter which program comes first."""
    place = partials + tl.program_id(0)
    tl.store(place, tl.sum(p_squares, axis=0).to(tl.float64))
    tl.store(place + tl.num_programs(0), tl.sum(x_squares, axis=0).to(tl.float64))


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["grad_scale", "coefficient", "found_inf"])
def update_kernel(
    table,
    chunks,
    scalars,
    grad_scale,
    coefficient,
    found_inf,
    unit_coefficients,
    units,
    partials,
    ratios,
    n,
    update: tl.constexpr,
    direction: tl.constexpr,
    advance: tl.constexpr,
    rule_options: tl.constexpr,
    codecs: tl.constexpr,
    compute: tl.constexpr,
    exact: tl.constexpr,
    by_value: tl.constexpr,
    l1: tl.constexpr,
    stores: tl.constexpr,
    noisy: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    SLICE: tl.constexpr,
    EACH: tl.constexpr,
):
    """Update one chunk of one tensor.

    A row of `scalars` is `WIDTH` wide: the gradient's factor (-1 to maximize), the bound that clamps it, what L1 takes
    off a parameter, the step, then h. The gradient is divided by `grad_scale` and multiplied by `coefficient`. If there
    are `units` (two rows, unit sizes and first units, an entry a tensor), its unit's coefficient multiplies it too.

    A layer-wise rule takes two launches. The first one is given `partials` (two rows of doubles, an entry a program)
    and only measures: it leaves there the sums of squares of the parameter and of what the rule measures. The second
    one is given the `ratios` (an entry a tensor) that scale the step. One of the two `stores` the states.
    """
    measuring: tl.constexpr = partials is not None
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    chunk = chunks + 2 * tl.program_id(0).to(tl.int64)
    tensor = tl.load(chunk).to(tl.int64)
    start = tl.load(chunk + 1).to(tl.int64) * BLOCK
    numel = tl.load(table + tensor)
    row = scalars + tl.load(table + n + tensor) * WIDTH
    addresses = ()
    low_bits = start * 0
    # Parameter and gradient come first, for what measures them; then what else is stored of the parameter.
    column = table + 4 * n + tensor
    for i in tl.static_range(COLUMNS):
        if i < 2:
            address = tl.load(table + (2 + i) * n + tensor)
        else:
            address = tl.load(column)
            column += n
        low_bits = low_bits | address
        parts = (address,)
        if codecs[i].rest is not None:
            address = tl.load(column)
            column += n
            parts = parts + (address,)
            if codecs[i].group == 0:  # of scales each thread reads one alone
                low_bits = low_bits | address
        addresses = addresses + (parts,)
    key, begin, step = start, start, start
    if noisy:
        key, begin, step = tl.load(column), tl.load(column + n), tl.load(row + 3).to(tl.int64)
    if by_value:
        scale = tl.full((), 1.0, compute)  # the factor waits until the gradient is clamped
    else:
        scale = tl.load(row)
    if grad_scale is not None:
        scale = divide(scale, tl.load(grad_scale).to(compute))
    if coefficient is not None:
        scale = scale * tl.load(coefficient).to(compute)
    unit_size = start
    if unit_coefficients is not None:
        unit_size = tl.load(units + tensor)
        unit_coefficients += tl.load(units + n + tensor)
    ratio = scale
    if ratios is not None:
        ratio = tl.load(ratios + tensor).to(compute)
    h = ()
    for i in tl.static_range(HEAD, WIDTH):
        h = h + (tl.load(row + i),)
    # Only whole chunks of 16-byte-aligned tensors can take wide accesses; a false hint would fault.
    if (low_bits & 15) == 0 and start + BLOCK <= numel:
        place = (start + tl.arange(0, BLOCK), None, start, numel)
        noise = None
        if noisy:
            noise = noise_of(place, key, begin, step)
        p, x = _work_on_chunk(
            addresses, place, noise, row, scale, ratio, h, unit_coefficients, unit_size,
            update, direction, advance, rule_options, codecs, compute, exact, by_value, l1,
            stores, measuring, COLUMNS, EACH,
        )  # fmt: skip
        if measuring:
            _leave_sums(partials, p * p, x * x)
    else:
        # In slices, so that this branch does not set the registers of the other: 106 a thread for AdamW, not 72.
        end = tl.minimum(start + BLOCK, numel)
        first = start
        if measuring:
            p_squares = tl.zeros((SLICE,), dtype=compute)
            x_squares = tl.zeros((SLICE,), dtype=compute)
        while first < end:  # Triton 3.6 cannot interpret a range() of loaded bounds
            offsets = first + tl.arange(0, SLICE)
            place = (offsets, offsets < numel, first, numel)
            noise = None
            if noisy:
                noise = noise_of(place, key, begin, step)
            p, x = _work_on_chunk(
                addresses, place, noise, row, scale, ratio, h, unit_coefficients, unit_size,
                update, direction, advance, rule_options, codecs, compute, exact, by_value, l1,
                stores, measuring, COLUMNS, 1,
            )  # fmt: skip
            if measuring:
                p_squares += tl.where(offsets < numel, p * p, 0.0)
                x_squares += tl.where(offsets < numel, x * x, 0.0)
            first += SLICE
        if measuring:
            _leave_sums(partials, p_squares, x_squares)


@triton.jit
def _raw_value(raw, raw_addresses, place, mask, dtype: tl.constexpr):
    """Return a hyperparameter in double: the host's value, or the one at an address on the device."""
    value = tl.load(raw + place, mask=mask, other=0.0)
    if raw_addresses is not None:
        address = tl.load(raw_addresses + place, mask=mask, other=0)
        on_device = tl.load(address.to(tl.pointer_type(dtype)), mask=address != 0, other=0.0)
        value = tl.where(address != 0, on_device.to(tl.float64), value)
    return value


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["found_inf"])
def scalars_kernel(
    raw,
    raw_rows,
    raw_addresses,
    step_addresses,
    found_inf,
    scalars,
    rows,
    derive: tl.constexpr,
    factors: tl.constexpr,
    RAW: tl.constexpr,
    PRODUCTS: tl.constexpr,
    WIDTH: tl.constexpr,
    raw_dtype: tl.constexpr,
    step_dtype: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Advance the step counters that live on the device, and derive each row of scalars from them: the prologue.

    A row of `raw` is `RAW` wide, in double: step, factor and bound of the gradient, L1 penalty, and hyperparameters, of
    which the learning rate is the first. Where `raw_addresses` holds an address, the value there replaces the one in
    `raw`. A row of scalars is derived from the row of `raw` that `raw_rows` names, or else from that of its own number.
    The last `PRODUCTS` hyperparameters are products over steps, at addresses that follow those of the counters.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = row < rows
    first = row * RAW
    if raw_rows is not None:
        first = tl.load(raw_rows + row, mask=mask, other=0) * RAW
    if step_addresses is None:
        step = tl.load(raw + first, mask=mask, other=1.0)
    else:
        counter = tl.load(step_addresses + row, mask=mask, other=0).to(tl.pointer_type(step_dtype))
        step = tl.load(counter, mask=mask, other=1.0).to(tl.float64)
        counted = tl.full((), 1.0, tl.float64)
        if found_inf is not None:
            counted = tl.where(tl.load(found_inf) != 0, 0.0, counted)
        step += counted
        tl.store(counter, step.to(step_dtype), mask=mask)
    out = scalars + row * WIDTH
    tl.store(out + 3, step.to(scalars.dtype.element_ty), mask=mask)
    head = ()
    for i in tl.static_range(1, 4):
        head = head + (_raw_value(raw, raw_addresses, first + i, mask, raw_dtype),)
    hyperparameters = ()
    for i in tl.static_range(4, RAW - PRODUCTS):
        hyperparameters = hyperparameters + (_raw_value(raw, raw_addresses, first + i, mask, raw_dtype),)
    if PRODUCTS > 0:
        found = factors(step, hyperparameters)
        for i in tl.static_range(PRODUCTS):
            address = tl.load(step_addresses + (1 + i) * rows + row, mask=mask, other=0)
            product = address.to(tl.pointer_type(step_dtype))
            value = tl.load(product, mask=mask, other=0.0)
            value = tl.where(counted != 0, value * found[i].to(step_dtype), value)
            tl.store(product, value, mask=mask)
            hyperparameters = hyperparameters + (value.to(tl.float64),)
    h = derive(step, hyperparameters)
    tl.store(out, head[0].to(scalars.dtype.element_ty), mask=mask)
    tl.store(out + 1, head[1].to(scalars.dtype.element_ty), mask=mask)
    tl.store(out + 2, (head[2] * hyperparameters[0]).to(scalars.dtype.element_ty), mask=mask)
    for i in tl.static_range(HEAD, WIDTH):
        tl.store(out + i, h[i - HEAD].to(scalars.dtype.element_ty), mask=mask)
