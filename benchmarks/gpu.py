"""Full steps on a GPU: time, host time, launches, share of copy bandwidth, extra memory, beside torch and others."""

import argparse
import gc
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import torch_gd
from torch_gd._engine import backend

from .algorithms import ALGORITHMS, OTHERS, Algorithm, Make, installed, others
from .gpu_report import picture, rivals, summary
from .gpu_report import table as table_of
from .launches import counted
from .report import RESULTS, write
from .shapes import Shapes, tiny_workloads, workloads
from .timing import on_device, on_host, synchronize

DTYPES = [torch.float32, torch.bfloat16]
QUICK = ("SGD momentum", "AdamW")
BUDGET, QUICK_BUDGET, SMOKE_BUDGET = 420.0, 90.0, 3600.0  # seconds; what is started last may run over
ALIGNMENT = 512  # bytes: torch's caching allocator places every tensor so


@dataclass
class Clock:
    """Shares what is left of the time among the measurements that are left."""

    seconds: float
    measurements: int
    started: float = field(default_factory=monotonic)

    def next_share(self) -> float:
        share = (self.started + self.seconds - monotonic()) / max(self.measurements, 1)
        self.measurements -= 1
        return share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)} only, {QUICK_BUDGET:.0f} s")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a smoke test on tiny tensors")
    parser.add_argument("--results", type=Path, help=f"folder for gpu.json, gpu.md and gpu.png; default {RESULTS}")


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Bytes a second, read and written, of `Tensor.copy_` between two buffers of `size` bytes."""
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    for _ in range(3):
        target.copy_(source)
    return 2 * size / on_device([lambda: target.copy_(source)], device, 30).median


def cache_size(device: torch.device) -> int:
    """Bytes of L2; on a CPU there is nothing to rotate against."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size) if device.type == "cuda" else 0


def parameters(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Parameters with gradients, placed as torch's allocator would, but in two allocations."""
    step = ALIGNMENT // dtype.itemsize
    sizes = [math.prod(shape) for shape in shapes]
    places = [step * math.ceil(size / step) for size in sizes]
    values, grads = (
        [place[:size].view(shape) for place, size, shape in zip(torch.split(slab, places), sizes, shapes)]
        for slab in (torch.randn(sum(places), dtype=dtype, device=device) for _ in range(2))
    )
    for p, g in zip(values, grads):
        p.requires_grad_().grad = g
    return values


def makers(algorithm: Algorithm, device: torch.device) -> dict[str, Make]:
    """Ours first, then torch's, then what else is installed."""
    fused = {"torch fused": algorithm.torchs(fused=True)} if algorithm.torch_fuses(device) else {}
    return {"ours": algorithm.ours, **fused, "torch foreach": algorithm.torchs(foreach=True), **others(algorithm)}


def rotation(make: Make, copies: list[list[Tensor]], seconds: float) -> list[torch.optim.Optimizer]:
    """An optimizer for each copy, each with its states made; fewer if that takes too long."""
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
    """Times one implementation on one workload."""
    device, dtype = copies[0][0].device, copies[0][0].dtype
    elements = sum(p.numel() for p in copies[0])
    footprint = elements * dtype.itemsize * (2 + algorithm.states)
    wanted = copies[: max(1, math.ceil(1.5 * cache_size(device) / footprint))]
    optimizers = rotation(make, wanted, seconds / 2)
    steps = [optimizer.step for optimizer in optimizers]
    for step in steps:  # plans are made anew in the step after states are
        step()
    samples = affordable(steps, device, seconds / 3)
    host = on_host(steps, device, samples)
    time = on_device(steps, device, samples)
    return {
        "time": asdict(time),
        "host": asdict(host),
        "share": elements * dtype.itemsize * algorithm.least_accesses / time.median / bandwidth,
        "extra_bytes": extra_memory(steps[0], device),
        "launches": launches(steps[0]) if isinstance(optimizers[0], torch_gd.FusedOptimizer) else None,
        "samples": samples,
        "copies": len(optimizers),
        "beyond_cache": len(optimizers) * footprint > cache_size(device),
    }


def affordable(steps: list[Any], device: torch.device, seconds: float) -> int:
    """How many steps fit in a time, from 3 to 50; one in a smoke test."""
    if device.type == "cpu":
        return 1
    start = perf_counter()
    on_device(steps, device, 2)
    return max(3, min(50, int(2 * seconds / (perf_counter() - start))))


def extra_memory(step: Any, device: torch.device) -> int | None:
    """Bytes that a step allocates at its peak."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def launches(step: Any) -> int:
    with counted() as counts:
        step()
    return counts.total()


def attempt(
    algorithm: Algorithm, make: Make, copies: list[list[Tensor]], bandwidth: float, clock: Clock
) -> dict[str, Any]:
    """A measurement, or why there is none; one that fails must not cost the others."""
    seconds = clock.next_share()
    if seconds <= 0:
        return {"failed": "out of time"}
    try:
        return measure(algorithm, make, copies, bandwidth, seconds)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}".split("\n")[0]}


def rows(quick: bool, device: torch.device, bandwidth: float) -> Iterator[dict[str, Any]]:
    """Every workload × dtype × optimizer × implementation."""
    smoke = device.type == "cpu"
    algorithms = [a for a in ALGORITHMS if not quick or a.label in QUICK]
    choose = tiny_workloads if smoke else workloads
    each = sum(len(makers(algorithm, device)) for algorithm in algorithms)
    names = list(choose(4))
    total = each * len(names) * len(DTYPES)
    clock = Clock(SMOKE_BUDGET if smoke else QUICK_BUDGET if quick else BUDGET, total)
    with tqdm(total=total, desc="gpu") as progress:
        for name in names:
            for dtype in DTYPES:
                shapes = choose(dtype.itemsize)[name]
                bytes_each = 2 * dtype.itemsize * sum(map(math.prod, shapes))
                count = max(1, math.ceil(1.5 * cache_size(device) / bytes_each))
                copies = [parameters(shapes, dtype, device) for _ in range(count)]
                for algorithm in algorithms:
                    for implementation, make in makers(algorithm, device).items():
                        progress.set_postfix_str(f"{name}, {str(dtype)[6:]}, {algorithm.label}, {implementation}")
                        row = {"workload": name, "dtype": str(dtype)[6:], "algorithm": algorithm.label}
                        row["implementation"] = implementation
                        yield row | attempt(algorithm, make, copies, bandwidth, clock)
                        release(device)
                        progress.update()
                del copies
                release(device)


def release(device: torch.device) -> None:
    """Gives memory back, so that no configuration finds another's leftovers."""
    if device.type == "cuda":
        gc.collect()  # an optimizer and its plan refer to each other
        torch.cuda.empty_cache()


def run(arguments: argparse.Namespace) -> None:
    """Measures, writes the results, prints the table and a summary."""
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
    found = list(rows(arguments.quick, device, bandwidth))
    lines = rivals(found)
    command = f"python -m benchmarks gpu{' --quick' if arguments.quick else ''}"
    command = command if device.type == "cuda" else f"TRITON_INTERPRET=1 {command} --device cpu"
    text = f"Copy bandwidth, read and written: {bandwidth / 1e12:.3f} TB/s.\n\n{table_of(lines)}\n\n{summary(lines)}"
    folder = arguments.results or RESULTS
    write(folder, "gpu", command, found, text, copy_bandwidth=bandwidth)
    picture(found, folder / "gpu.png")
    print(text)
