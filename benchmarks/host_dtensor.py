"""Host time of a step over DTensors, with and without clipping, beside torch's and beside ours over plain tensors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from textwrap import shorten
from time import thread_time
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from torch_gd.optimizers import FusedOptimizer
from torch_gd.triton_kernels import runtime
from torch_gd.triton_kernels.runtime import Runtime

from .algorithms import Algorithm, Make
from .launches import WithoutLaunches
from .report import microseconds, one_line, publish, span, table
from .tensors import separate_parameters
from .timing import CPU, Step, interleaved, spread

RANKS, SHARD, COUNT = 2, (8, 4), 300
MAX_NORM = 1.0
ROUNDS, BURST = 20, 5
QUICK = (4, 1)  # tensors and rounds
TORCHS = ("fused", "foreach", "default")
ROUTES: dict[str, Callable[[], Runtime]] = {"torch's kernels": Runtime, "our kernels": WithoutLaunches}
GOALS = {"AdamW": {"fused": 0.25}, "SGD momentum": {"best": 0.3}}  # our time over this one's
PLAIN_GOAL = 1.6

Figures: TypeAlias = dict[str, Any]


@contextmanager
def fake_ranks() -> Iterator[None]:
    """Be one of several ranks whose collectives return at once and fetch nothing."""
    dist.init_process_group("fake", rank=0, world_size=RANKS)
    try:
        yield
    finally:
        dist.destroy_process_group()


def as_dtensors(shards: list[Tensor]) -> list[Tensor]:
    """Return DTensors with gradients; parameters and their gradients are what this rank holds of them."""
    from torch.distributed.tensor import DTensor, Shard  # takes half a second, which other commands need not spend

    mesh = init_device_mesh("cpu", (RANKS,))
    params: list[Tensor] = []
    for shard in shards:
        p = DTensor.from_local(shard.detach(), mesh, [Shard(0)]).requires_grad_()
        p.grad = None if shard.grad is None else DTensor.from_local(shard.grad, mesh, [Shard(0)])
        params.append(p)
    return params


def new_step(make: Make, params: list[Tensor], clipped: bool) -> Step:
    """Return the step of a new optimizer: ours clips in the step, torch's is `clip_grad_norm_` and the step."""
    optimizer = make(params)
    if isinstance(optimizer, FusedOptimizer):
        optimizer.clip = MAX_NORM if clipped else None
        return optimizer.step

    def clip_then_step() -> None:
        clip_grad_norm_(params, MAX_NORM)
        optimizer.step()

    return clip_then_step if clipped else optimizer.step


def measure(algorithm: Algorithm, clipped: bool, machine: Runtime, count: int, rounds: int) -> Figures:
    """Time ours and torch's over the same DTensors, and ours over plain tensors.

    Returns:
        For each the spread of its times, or why it failed.
    """
    plain, shards = (separate_parameters([SHARD] * count) for _ in range(2))
    dtensors = as_dtensors(shards)
    makers = {name.removeprefix("torch "): make for name, make in algorithm.makers(CPU, *TORCHS).items()}
    over: dict[str, tuple[Make, list[Tensor]]] = {name: (make, dtensors) for name, make in makers.items()}
    found: Figures = {}
    steps: dict[str, Step] = {}
    # What has been clipped in place would not be clipped again. In training nobody holds the gradients' own objects.
    grads = [p.grad.detach() for p in (*plain, *shards) if p.grad is not None]
    refill = partial(torch._foreach_copy_, grads, [10 * g for g in grads])
    with runtime.use(machine):
        for name, (make, params) in (over | {"plain": (makers["ours"], plain)}).items():
            try:
                step = new_step(make, params, clipped)
                refill()
                step()
            except Exception as error:  # torch cannot tell how to spread some of its operators
                found[name] = {"failed": one_line(error)}
            else:
                steps[name] = step
        times = interleaved(steps, rounds, BURST, clock=thread_time, before=refill)
        if isinstance(machine, WithoutLaunches) and "ours" in steps:
            steps["ours"]()
            check_addresses(machine, shards)
    return found | {name: asdict(spread(list(chain.from_iterable(bursts)))) for name, bursts in times.items()}


def check_addresses(machine: WithoutLaunches, params: list[Tensor]) -> None:
    """Raise `AssertionError` unless the last launch was given these parameters and their gradients."""
    addressed = machine.arguments("update_kernel")["table"][2:4].tolist()
    if addressed != [[p.data_ptr() for p in params], [p.grad.data_ptr() for p in params if p.grad is not None]]:
        raise AssertionError("the launch got addresses that are not the shards'")


def ratios(figures: Figures) -> dict[str, float]:
    """Return our time over torch's fused, torch's best and ours for plain tensors, each where both were measured."""
    times = {name: time["median"] for name, time in figures.items() if "median" in time}
    torchs = [times[name] for name in TORCHS if name in times]
    times |= {"best": min(torchs)} if torchs else {}
    return {name: times["ours"] / times[name] for name in ("fused", "best", "plain") if {"ours", name} <= set(times)}


def rows(algorithms: list[Algorithm], count: int, rounds: int) -> list[Figures]:
    """Return the figures of every algorithm on both routes, with and without clipping."""
    configurations = [(a, clipped, route) for clipped in (False, True) for route in ROUTES for a in algorithms]
    found = []
    with fake_ranks():
        for algorithm, clipped, route in tqdm(configurations, desc="host --dtensor", leave=False):
            times = measure(algorithm, clipped, ROUTES[route](), count, rounds)
            row = {"algorithm": algorithm.label, "clipped": clipped, "route": route, "tensors": count}
            goals = GOALS.get(algorithm.label, {}) | {"plain": PLAIN_GOAL} if count == COUNT else {}
            found.append(row | times | {"ratios": ratios(times), "goals": goals})
    return found


def markdown(found: list[Figures]) -> str:
    """Return the figures as a table, and below it which goals are missed and what failed."""
    header = ["optimizer", "clipped", "ours with", "ours µs", "p10–p90", *(f"torch {name} µs" for name in TORCHS)]
    header += ["ours/fused", "ours/best", "ours plain µs", "ours/plain", f"goals at {COUNT}"]
    names = {"ours": "ours", "plain": "ours plain", **{name: f"torch {name}" for name in TORCHS}}
    lines, missed, failed = [], [], []
    for row in found:
        which = [row["algorithm"], "yes" if row["clipped"] else "no", row["route"]]
        ratio = {name: f"{value:.2f}" for name, value in row["ratios"].items()}
        times = [_cell(row.get(name)) for name in TORCHS]
        ours = [_cell(row["ours"]), span(row["ours"]) if "median" in row["ours"] else "—"]
        compared = [ratio.get("fused", "—"), ratio.get("best", "—"), _cell(row["plain"]), ratio.get("plain", "—")]
        aims = ", ".join(f"{goal} of {name}" for name, goal in row["goals"].items())
        lines.append([*which, *ours, *times, *compared, aims])
        what = f"{which[0]}{', clipped' if row['clipped'] else ''}, {which[2]}"
        missed += [f"{what}: {ratio[n]} of {n}" for n, goal in row["goals"].items() if row["ratios"].get(n, 0) > goal]
        failed += [f"- {which[0]}, {names[n]}: {row[n]['failed']}" for n in names if "failed" in row.get(n, {})]
    said = [f"Goals missed: {'; '.join(missed) or 'none'}.", ""] if any(row["goals"] for row in found) else []
    notes = dict.fromkeys(failed)  # most fail alike on both routes, clipped or not
    return "\n".join([table(header, lines), "", *said, *notes]).rstrip()


def _cell(time: dict[str, Any] | None) -> str:
    if time is None:
        return "none"
    return microseconds(time["median"]) if "median" in time else shorten(time["failed"], 30, placeholder=" …")


def run(algorithms: list[Algorithm], quick: bool, results: Path) -> None:
    """Measure, print the table and write the results."""
    count, rounds = QUICK if quick else (COUNT, ROUNDS)
    found = rows(algorithms, count, rounds)
    shape = " × ".join(map(str, SHARD))
    text = (
        f"{markdown(found)}\n\nA step is over {count} DTensors on {RANKS} ranks, of each of which a rank holds {shape} "
        f"elements; `ours plain` is ours over {count} plain tensors of {shape}. The process group is torch's fake one, "
        "whose collectives take no time. Clipping is by global norm, ours in the step, torch's by `clip_grad_norm_` "
        "before it. With our kernels, ours is everything up to the launch, which a stand-in takes and does not make; "
        "all else is whole steps on the CPU. CPU time of the one thread; medians; bursts of "
        f"{BURST} steps, interleaved."
    )
    publish(results, "host_dtensor", "python -m benchmarks host --dtensor", found, text)
