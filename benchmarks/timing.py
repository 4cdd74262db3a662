"""Medians and spreads of host time, with the implementations interleaved, and of device time, by events."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import Any, TypeAlias

import torch

Step: TypeAlias = Callable[[], object]
Bursts: TypeAlias = dict[str, list[list[float]]]  # for each implementation a list of bursts; seconds of each call
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Spread:
    """The median and the 10th and 90th percentiles of samples."""

    median: float
    p10: float
    p90: float


def spread(samples: Sequence[float]) -> Spread:
    """Return the spread of samples, each figure one of them."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return Spread(ordered[round(last / 2)], ordered[round(last * 0.1)], ordered[round(last * 0.9)])


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector, as `timeit` does: it would charge one sample with another's garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _nothing() -> None:
    pass


def interleaved(
    functions: Mapping[str, Step],
    rounds: int,
    burst: int,
    device: torch.device = CPU,
    clock: Callable[[], float] = perf_counter,
    before: Step = _nothing,
) -> Bursts:
    """Time functions in turn, in bursts of calls, round after round.

    A disturbance of the machine then hits all of them alike. Each round has a random order: whatever runs first leaves
    the caches and the freed memory in a certain state for the next.

    Args:
        functions: the functions.
        rounds: how many bursts of each.
        burst: how many calls a burst has.
        device: where they run; on a GPU, events take the time.
        clock: what tells the time on the CPU, in seconds.
        before: called before each call on the CPU, and not timed.

    Returns:
        For each function the bursts, one for each round: the seconds of each call. The first call of a burst finds the
        caches as the other functions left them.
    """
    for _ in range(2):
        for function in functions.values():
            before()
            function()
    samples: Bursts = {name: [] for name in functions}
    order, shuffle = list(functions.items()), Random(0).shuffle
    with no_garbage_collection():
        for _ in range(rounds):
            shuffle(order)
            for name, function in order:
                if device.type == "cuda":
                    samples[name].append(event_times([function], device, burst))
                    continue
                times = []
                for _ in range(burst):
                    before()
                    start = clock()
                    function()
                    times.append(clock() - start)
                samples[name].append(times)
    return samples


def over_draws(
    new_functions: Callable[[Random], Mapping[str, Step]],
    draws: int,
    rounds: int,
    burst: int,
    device: torch.device = CPU,
) -> Bursts:
    """Time functions interleaved, several times over with new tensors; return the bursts of all draws.

    The address of a large tensor alone makes one and the same kernel faster or slower by several per cent.

    Args:
        new_functions: makes the functions and their tensors, in an order drawn from the generator that it is given:
            whatever is allocated first gets the memory that the last draw freed.
        draws: how many times to make them.
        rounds: as in `interleaved`, for each draw.
        burst: as in `interleaved`.
        device: as in `interleaved`.
    """
    samples: Bursts = {}
    for draw in range(draws):
        for name, bursts in interleaved(new_functions(Random(draw)), rounds, burst, device).items():
            samples.setdefault(name, []).extend(bursts)
    return samples


def synchronize(device: torch.device) -> None:
    """Wait for a GPU's work; do nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def on_host(functions: Sequence[Step], device: torch.device, samples: int) -> Spread:
    """Time calls until they return, with nothing queued on the device before; the functions take turns."""
    times = []
    with no_garbage_collection():
        for i in range(samples):
            synchronize(device)
            start = perf_counter()
            functions[i % len(functions)]()
            times.append(perf_counter() - start)
    synchronize(device)
    return spread(times)


def on_device(functions: Sequence[Step], device: torch.device, samples: int) -> Spread:
    """Time calls back to back: whichever takes longer, the host's or the device's work; the functions take turns."""
    if device.type != "cuda":
        return on_host(functions, device, samples)
    with no_garbage_collection():
        return spread(event_times(functions, device, samples))


def event_times(functions: Sequence[Step], device: torch.device, samples: int) -> list[float]:
    """Return the seconds between GPU events before and after each call; the functions take turns."""
    # torch leaves its events untyped.
    events: list[list[Any]] = [
        [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
        for _ in range(samples)
    ]
    stream = torch.cuda.current_stream(device)
    synchronize(device)
    for i, (before, after) in enumerate(events):
        before.record(stream)
        functions[i % len(functions)]()
        after.record(stream)
    synchronize(device)
    return [before.elapsed_time(after) * 1e-3 for before, after in events]


def affordable(functions: Sequence[Step], device: torch.device, seconds: float) -> int:
    """Return how many calls fit in a time, from 3 to 50; on the CPU, where `gpu` and `clip` only try their code, 1."""
    if device.type == "cpu":
        return 1
    start = perf_counter()
    on_device(functions, device, 2)
    return max(3, min(50, int(2 * seconds / (perf_counter() - start))))
