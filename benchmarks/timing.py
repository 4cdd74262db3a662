"""Medians and spreads: of host time, with its rivals interleaved, and of a device's, with events."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import Any

import torch


@dataclass(frozen=True)
class Spread:
    """Seconds: the median, and what a tenth of the samples lay below and above."""

    median: float
    p10: float
    p90: float


def spread(samples: Sequence[float]) -> Spread:
    ordered = sorted(samples)
    last = len(ordered) - 1
    return Spread(ordered[round(last / 2)], ordered[round(last * 0.1)], ordered[round(last * 0.9)])


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """As `timeit` does it: what is collected in a sample need not be that sample's garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int, burst: int) -> dict[str, list[list[float]]]:
    """Calls each `burst` times in turn, round after round, so that what else the machine does befalls all alike.

    Each round in an order of its own: what runs before leaves the caches, and freed memory, in a state of its own.

    Returns:
        Seconds of each call: a list a round. The first of a burst finds the caches as the others left them.
    """
    for _ in range(2):
        for function in functions.values():
            function()
    samples: dict[str, list[list[float]]] = {name: [] for name in functions}
    order, shuffle = list(functions.items()), Random(0).shuffle
    with no_garbage_collection():
        for _ in range(rounds):
            shuffle(order)
            for name, function in order:
                times = []
                for _ in range(burst):
                    start = perf_counter()
                    function()
                    times.append(perf_counter() - start)
                samples[name].append(times)
    return samples


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def on_host(functions: Sequence[Callable[[], object]], device: torch.device, samples: int) -> Spread:
    """Time until a call returns, with nothing queued on the device before it; the functions take turns."""
    times = []
    with no_garbage_collection():
        for i in range(samples):
            synchronize(device)
            start = perf_counter()
            functions[i % len(functions)]()
            times.append(perf_counter() - start)
    synchronize(device)
    return spread(times)


def on_device(functions: Sequence[Callable[[], object]], device: torch.device, samples: int) -> Spread:
    """Time between events before and after each call, calls back to back: the longer of host's and device's work."""
    if device.type != "cuda":
        return on_host(functions, device, samples)
    # torch leaves its events untyped
    events: list[list[Any]] = [
        [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
        for _ in range(samples)
    ]
    synchronize(device)
    with no_garbage_collection():
        for i, (before, after) in enumerate(events):
            before.record()
            functions[i % len(functions)]()
            after.record()
    synchronize(device)
    return spread([before.elapsed_time(after) * 1e-3 for before, after in events])
