"""The multi-tensor kernels: one launch updates any number of tensors, in any number of groups. Know no algorithm.

They read a table on the device that holds a column for each thing a tensor has (`launch.py` fills it), and a map that
gives each program its tensor and its chunk of it.
"""

import triton
import triton.language as tl


@triton.jit
def _pointer(address, dtype: tl.constexpr, aligned: tl.constexpr):
    pointer = address.to(tl.pointer_type(dtype))
    # The hint must sit on the pointer: on the integer before the cast it is lost.
    return tl.multiple_of(pointer, 16) if aligned else pointer


# The interpreter cuts float32 to bfloat16 where a GPU rounds to nearest; there, round by hand.
_ROUND_BY_HAND = tl.constexpr(not isinstance(_pointer, triton.JITFunction))


@triton.jit
def _stored(x, dtype: tl.constexpr):
    """`x` rounded once, to nearest even, to the dtype that it is stored in."""
    if _ROUND_BY_HAND and dtype == tl.bfloat16:
        bits = x.to(tl.float32).to(tl.int32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(x == x, nearest, 0x7FC0).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def _update_chunk(
    addresses,
    offsets,
    mask,
    scale,
    h,
    update: tl.constexpr,
    options: tl.constexpr,
    dtypes: tl.constexpr,
    compute: tl.constexpr,
    aligned: tl.constexpr,
):
    p_ptr = _pointer(addresses[0], dtypes[0], aligned)
    p = tl.load(p_ptr + offsets, mask=mask).to(compute)
    g = tl.load(_pointer(addresses[1], dtypes[1], aligned) + offsets, mask=mask).to(compute) * scale
    state = ()
    for i in tl.static_range(2, len(dtypes)):
        state = state + (tl.load(_pointer(addresses[i], dtypes[i], aligned) + offsets, mask=mask).to(compute),)
    p, state = update(p, g, state, h, options)
    tl.store(p_ptr + offsets, _stored(p, dtypes[0]), mask=mask)
    for i in tl.static_range(2, len(dtypes)):
        tl.store(_pointer(addresses[i], dtypes[i], aligned) + offsets, _stored(state[i - 2], dtypes[i]), mask=mask)


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["grad_scale", "found_inf"])
def update_kernel(
    table,
    chunks,
    scalars,
    grad_scale,
    found_inf,
    n,
    update: tl.constexpr,
    options: tl.constexpr,
    dtypes: tl.constexpr,
    compute: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    SLICE: tl.constexpr,
):
    """One chunk of one tensor. `scalars` rows are `WIDTH` wide: the gradient's factor (-1 to maximize), then h."""
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    chunk = chunks + 2 * tl.program_id(0).to(tl.int64)
    tensor = tl.load(chunk).to(tl.int64)
    start = tl.load(chunk + 1).to(tl.int64) * BLOCK
    numel = tl.load(table + tensor)
    row = tl.load(table + n + tensor) * WIDTH
    addresses = ()
    low_bits = start * 0
    for i in tl.static_range(len(dtypes)):
        address = tl.load(table + (2 + i) * n + tensor)
        addresses = addresses + (address,)
        low_bits = low_bits | address
    scale = tl.load(scalars + row)
    if grad_scale is not None:
        scale = scale / tl.load(grad_scale).to(compute)
    h = ()
    for i in tl.static_range(1, WIDTH):
        h = h + (tl.load(scalars + row + i),)
    # Only whole chunks of 16-byte-aligned tensors can take 128-bit accesses; a false hint would fault.
    if (low_bits & 15) == 0 and start + BLOCK <= numel:
        _update_chunk(addresses, start + tl.arange(0, BLOCK), None, scale, h, update, options, dtypes, compute, True)
    else:
        # In slices, so that this branch does not set the registers of the other: 106 a thread for AdamW, not 72.
        end = tl.minimum(start + BLOCK, numel)
        first = start
        while first < end:  # Triton 3.6 cannot interpret a range() of loaded bounds
            offsets = first + tl.arange(0, SLICE)
            _update_chunk(addresses, offsets, offsets < numel, scale, h, update, options, dtypes, compute, False)
            first += SLICE


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["found_inf"])
def scalars_kernel(
    raw,
    raw_addresses,
    step_addresses,
    found_inf,
    scalars,
    rows,
    derive: tl.constexpr,
    RAW: tl.constexpr,
    WIDTH: tl.constexpr,
    raw_dtype: tl.constexpr,
    step_dtype: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The prologue: advances step counters that live on the device and derives each row of scalars from them.

    `raw` rows are `RAW` wide, in double: step, factor of the gradient, hyperparameters. An address that is not zero
    stands for the value beside it.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = row < rows
    step = tl.load(raw + row * RAW, mask=mask, other=1.0)
    if step_addresses is not None:
        advance = step * 0 + 1
        if found_inf is not None:
            advance = tl.where(tl.load(found_inf) != 0, 0.0, advance)
        counter = tl.load(step_addresses + row, mask=mask, other=0).to(tl.pointer_type(step_dtype))
        step = tl.load(counter, mask=mask, other=1.0).to(tl.float64) + advance
        tl.store(counter, step.to(step_dtype), mask=mask)
    hyperparameters = ()
    for i in tl.static_range(2, RAW):
        value = tl.load(raw + row * RAW + i, mask=mask, other=0.0)
        if raw_addresses is not None:
            address = tl.load(raw_addresses + row * RAW + i, mask=mask, other=0)
            on_device = tl.load(address.to(tl.pointer_type(raw_dtype)), mask=address != 0, other=0.0)
            value = tl.where(address != 0, on_device.to(tl.float64), value)
        hyperparameters = hyperparameters + (value,)
    h = derive(step, hyperparameters)
    factor = tl.load(raw + row * RAW + 1, mask=mask, other=0.0)
    tl.store(scalars + row * WIDTH, factor.to(scalars.dtype.element_ty), mask=mask)
    for i in tl.static_range(1, WIDTH):
        tl.store(scalars + row * WIDTH + i, h[i - 1].to(scalars.dtype.element_ty), mask=mask)
