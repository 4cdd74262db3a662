"""Full steps on a GPU, beside torch's and other packages': time, host time, launches, bandwidth, extra memory."""

import argparse
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import product
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import torch_gd
from torch_gd._engine import backend

from .algorithms import ALGORITHMS, LOW_PRECISION, OTHERS, Algorithm, Make, installed, others, without_timm
from .argument_types import duration
from .gpu_report import markdown, picture, rivals, summary
from .launches import counted
from .report import RESULTS, add_results_argument, one_line, publish
from .shapes import tiny_workloads, workloads
from .tensors import dtype_name, packed_parameters, release
from .timing import Step, affordable, on_device, on_host, synchronize

DTYPES = [torch.float32, torch.bfloat16]
QUICK = ("SGD momentum", "AdamW")
BUDGET, QUICK_BUDGET = 420.0, 90.0  # seconds; the last measurement may run over


@dataclass
class Clock:
    """Shares the time that is left among the measurements that are left.

    Args:
        seconds: the time for all of them.
        measurements: how many there are.
        started: when the time began.
    """

    seconds: float
    measurements: int
    started: float = field(default_factory=monotonic)

    def next_share(self) -> float:
        """Return the seconds for the next measurement; none are left if it is 0 or less."""
        share = (self.started + self.seconds - monotonic()) / max(self.measurements, 1)
        self.measurements -= 1
        return share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)} only")
    budgets = f"default on a GPU: {BUDGET:.0f}, or {QUICK_BUDGET:.0f} with --quick"
    parser.add_argument("--seconds", type=duration, help=f"for all measurements together ({budgets})")
    purpose = "cpu only tries the code, on tiny tensors"
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help=purpose)
    add_results_argument(parser, "gpu", None, " and gpu.png (default on a GPU: benchmarks/results)")


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Return the bytes that `Tensor.copy_` reads and writes in a second, between two buffers of `size` bytes."""
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    for _ in range(3):
        target.copy_(source)
    return 2 * size / on_device([lambda: target.copy_(source)], device, 30).median


def cache_size(device: torch.device) -> int:
    """Return the bytes of a GPU's L2 cache; 0 for the CPU, where the code is only tried."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size) if device.type == "cuda" else 0


def makers(algorithm: Algorithm, device: torch.device) -> dict[str, Make]:
    """Return what makes ours, torch's or timm's, and that of each other package that is installed."""
    return algorithm.makers(device, "fused", "foreach") | others(algorithm)


def rotation(make: Make, copies: list[list[Tensor]], seconds: float) -> list[torch.optim.Optimizer]:
    """Return an optimizer for each copy of the parameters, after its first step; fewer if that takes too long."""
    optimizers: list[torch.optim.Optimizer] = []
    start = perf_counter()
    for params in copies:
        optimizers.append(make(params))
        optimizers[-1].step()
        synchronize(params[0].device)
        if perf_counter() - start > seconds:
            break
    return optimizers


def measure(
    algorithm: Algorithm, make: Make, copies: list[list[Tensor]], bandwidth: float, seconds: float
) -> dict[str, Any]:
    """Time one implementation on one workload.

    Args:
        algorithm: what it implements.
        make: what makes it.
        copies: the workload's parameters, several times over. The steps take turns among them, so that none finds its
            tensors in the L2 cache.
        bandwidth: bytes a second of a copy.
        seconds: how long this may take.
    """
    device, dtype = copies[0][0].device, copies[0][0].dtype
    elements = sum(p.numel() for p in copies[0])
    footprint = elements * dtype.itemsize * (2 + algorithm.states)
    wanted = copies[: max(1, math.ceil(1.5 * cache_size(device) / footprint))]
    optimizers = rotation(make, wanted, seconds / 2)
    steps = [optimizer.step for optimizer in optimizers]
    for step in steps:  # the first step makes the states, the second the plan that the others keep
        step()
    samples = affordable(steps, device, seconds / 3)
    host = on_host(steps, device, samples)
    time = on_device(steps, device, samples)
    return {
        "time": asdict(time),
        "host": asdict(host),
        "share": elements * algorithm.least_bytes(dtype) / time.median / bandwidth,
        "extra_bytes": extra_memory(steps[0], device),
        "launches": launches(steps[0]) if isinstance(optimizers[0], torch_gd.FusedOptimizer) else None,
        "samples": samples,
        "copies": len(optimizers),
        "beyond_cache": len(optimizers) * footprint > cache_size(device),
    }


def extra_memory(step: Step, device: torch.device) -> int | None:
    """Return the bytes that a step has allocated at its peak; None on the CPU, which does not count them."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def launches(step: Step) -> int:
    """Return how many kernels of ours a step launches."""
    with counted() as counts:
        step()
    return counts.total()


def attempt(
    algorithm: Algorithm, make: Make, copies: list[list[Tensor]], bandwidth: float, clock: Clock
) -> dict[str, Any]:
    """Return a measurement, or the reason why there is none; one that fails does not end the others."""
    seconds = clock.next_share()
    if seconds <= 0:
        return {"failed": "out of time"}
    try:
        return measure(algorithm, make, copies, bandwidth, seconds)
    except Exception as error:
        return {"failed": one_line(error)}


def rows(quick: bool, seconds: float, device: torch.device, bandwidth: float) -> Iterator[dict[str, Any]]:
    """Yield the figures of every workload, dtype, algorithm and implementation."""
    algorithms = [a for a in (*ALGORITHMS, *LOW_PRECISION) if not quick or a.label in QUICK]
    choose = tiny_workloads if device.type == "cpu" else workloads
    names = list(choose(4))
    total = len(names) * sum(
        len(makers(algorithm, device))
        for dtype, algorithm in product(DTYPES, algorithms)
        if algorithm.dtype in (None, dtype)
    )
    clock = Clock(seconds, total)
    with tqdm(total=total, desc="gpu") as progress:
        for name in names:
            for dtype in DTYPES:
                shapes = choose(dtype.itemsize)[name]
                bytes_each = 2 * dtype.itemsize * sum(map(math.prod, shapes))
                count = max(1, math.ceil(1.5 * cache_size(device) / bytes_each))
                copies = [packed_parameters(shapes, dtype, device) for _ in range(count)]
                for algorithm in (a for a in algorithms if a.dtype in (None, dtype)):
                    for implementation, make in makers(algorithm, device).items():
                        progress.set_postfix_str(f"{name}, {dtype_name(dtype)}, {algorithm.label}, {implementation}")
                        row = {"workload": name, "dtype": dtype_name(dtype), "algorithm": algorithm.label}
                        row["implementation"] = implementation
                        yield row | attempt(algorithm, make, copies, bandwidth, clock)
                        release(device)
                        progress.update()
                del copies
                release(device)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table and a summary, write the results."""
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("`gpu` needs a GPU; `--device cpu` under TRITON_INTERPRET=1 tries every step of it without")
    if device.type == "cpu" and not backend.interpreted():
        raise SystemExit("`--device cpu` interprets the kernels: set TRITON_INTERPRET=1")
    if device.type == "cpu" and arguments.results is None:
        raise SystemExit("`--device cpu` measures nothing worth keeping: name a folder with --results")
    for package in OTHERS:
        if not installed(package):
            print(f"skipped: {package} (not installed)")
    bandwidth = copy_bandwidth(device, 2**30 if device.type == "cuda" else 2**16)
    limit = math.inf if device.type == "cpu" else QUICK_BUDGET if arguments.quick else BUDGET
    found = list(rows(arguments.quick, arguments.seconds or limit, device, bandwidth))
    lines = rivals(found)
    command = f"python -m benchmarks gpu{' --quick' if arguments.quick else ''}"
    command += f" --seconds {arguments.seconds:g}" if arguments.seconds else ""
    command = command if device.type == "cuda" else f"TRITON_INTERPRET=1 {command} --device cpu"
    text = f"Copy bandwidth, read and written: {bandwidth / 1e12:.3f} TB/s.{without_timm()}"
    text += f"\n\n{markdown(lines)}\n\n{summary(lines)}"
    folder = arguments.results or RESULTS
    publish(folder, "gpu", command, found, text, copy_bandwidth=bandwidth)
    picture(found, folder / "gpu.png")
