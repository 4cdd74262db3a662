"""Counts in the code that each rule compiles to, for GPUs that need not be here, and a prediction from them."""

import argparse
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, TypeAlias

import torch
from tqdm import tqdm

from torch_gd.triton_kernels import launch, runtime
from torch_gd.triton_kernels.codecs import Codecs

from .assembly import AMDGCN, SASS, common_case
from .compiled import (
    NON_NEGATIVE,
    STORAGES,
    TARGETS,
    VARIANTS,
    Storage,
    Variant,
    approximate,
    compile_update,
    exchanges,
    resources,
    run_tool,
)
from .report import RESULTS, add_results_argument, publish, table
from .roofline import GPUS, predict
from .tensors import dtype_name

Kind: TypeAlias = torch.dtype | Storage
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
KINDS: list[Kind] = [*DTYPES, *STORAGES]


@dataclass(frozen=True)
class Report:
    """Counts in the compiled code of one variant for one GPU; bytes and instructions are per element.

    Its `dtype` is that of all tensors, or how weights and states are stored (`STORAGES`). Threads that share a scale
    read it from one cache line, and one of them stores it, so that it is counted once.
    """

    variant: str
    dtype: str
    target: str
    block: int
    num_warps: int
    bytes: float  # loaded and stored by the branch for whole chunks
    least_bytes: float  # each tensor read once, and all but the gradient written once
    wide_share: float  # share of those accesses that are 128 bits wide
    registers: int  # per thread
    stack: int  # bytes per thread
    spills: int  # loads and stores of spilled registers
    exchanges: list[str]  # instructions by which threads wait for one another or exchange values
    approximate: list[str]  # float32 divisions and square roots in the PTX that are not correctly rounded
    programs: int  # resident on a core at once
    occupancy: float  # share of the threads that a core can hold
    in_flight: int  # bytes per core: what all resident threads load before they use any of it
    instructions: float  # of the branch for whole chunks, in the common case
    head_instructions: float  # before that branch: reading the metadata
    issue_share: float  # share that the branch takes of the issue slots that pass while a copy moves the same bytes
    predicted: float  # share of copy bandwidth: a prediction, not a measurement
    limit: str  # what bounds the prediction


def columns_of(variant: Variant, kind: Kind) -> Sequence[torch.dtype] | Codecs:
    """Return the dtypes or the codecs of a variant's columns."""
    return kind.codecs(variant) if isinstance(kind, Storage) else [kind] * variant.streams


def name_of(kind: Kind) -> str:
    """Return what a kind is called in the tables."""
    return kind.name if isinstance(kind, Storage) else dtype_name(kind)


def report(variant: Variant, kind: Kind, name: str, compiled: Any) -> Report:
    """Return the counts in the code that `compile_update` returned."""
    target, gpu = TARGETS[name], GPUS[name]
    columns = columns_of(variant, kind)
    block = variant.block(columns, target)
    threads = target.warp_size * launch.NUM_WARPS
    elements = block // threads
    registers, stack = resources(compiled)
    if "cubin" in compiled.asm:
        sass = run_tool("nvdisasm", "-c", compiled.asm["cubin"])
        spills = len(re.findall(r"\b(?:LDL|STL)\b", sass))
        case = common_case(sass, SASS)
    else:
        spills = int(re.findall(r"\.vgpr_spill_count:\s*(\d+)", compiled.asm["amdgcn"])[0])
        case = common_case(compiled.asm["amdgcn"], AMDGCN)
    # Of 8 bytes are the two sums that one thread of a program stores when its chunk is done.
    accesses = [size for size in case.accesses if not (variant.measuring and size == 8)]
    moved = sum(accesses) / elements
    if isinstance(columns, Codecs):
        grouped, each = [codec for codec in columns if codec.group], launch.access_size(columns)
        # AMD's code jumps over a store of which no lane takes part: the common case does not have it.
        stores = 1 / each if target.backend == "cuda" else 0.0
        moved -= sum(4 * (1 / each + stores - 2 / codec.group) for codec in grouped)
    least = variant.least_bytes(columns)
    programs = gpu.resident_programs(registers, launch.NUM_WARPS)
    predicted = predict(gpu, programs, block, moved, least, (case.head + case.body) / elements)
    return Report(
        variant=variant.name,
        dtype=name_of(kind),
        target=name,
        block=block,
        num_warps=launch.NUM_WARPS,
        bytes=moved,
        least_bytes=least,
        wide_share=accesses.count(16) / len(accesses),
        registers=registers,
        stack=stack,
        spills=spills,
        exchanges=exchanges(compiled),
        approximate=approximate(compiled),
        programs=programs,
        occupancy=programs * threads / gpu.threads,
        in_flight=programs * threads * case.in_flight * 16,
        instructions=case.body / elements,
        head_instructions=case.head / elements,
        issue_share=case.body / elements / (moved * gpu.instructions_a_byte),
        predicted=predicted.share,
        limit=predicted.limit,
    )


def reports(
    names: Sequence[str] = tuple(TARGETS),
    kinds: Sequence[Kind] = KINDS,
    variants: Sequence[Variant] = tuple(VARIANTS),
) -> list[Report]:
    """Return a report for every target, variant and kind of storing; of `STORAGES`, for the rules that they are for."""
    configurations = [
        (variant, kind, name)
        for variant, kind, name in product(variants, kinds, names)
        if not isinstance(kind, Storage) or variant.name in NON_NEGATIVE
    ]
    with ThreadPoolExecutor(2) as pool:  # disassembles one while the next is compiled
        pending = [
            pool.submit(report, variant, kind, name, compile_update(variant, columns_of(variant, kind), TARGETS[name]))
            for variant, kind, name in tqdm(configurations, desc="codegen", leave=False)
        ]
    order = list(names)
    return sorted((one.result() for one in pending), key=lambda one: order.index(one.target))


def markdown(found: Sequence[Report]) -> str:
    """Return a table with a row for each variant, dtype and target."""
    header = [
        "target",
        "dtype or storage",
        "rule",
        "bytes (least)",
        "128-bit",
        "registers",
        "stack",
        "occupancy",
        "KB in flight",
    ]
    header += ["instructions", "of issue budget", "PREDICTED % of copy", "limit"]
    lines = [
        [
            one.target,
            one.dtype,
            one.variant,
            f"{one.bytes:g} ({one.least_bytes:g})",
            f"{one.wide_share:.0%}",
            str(one.registers),
            str(one.stack + one.spills),
            f"{one.occupancy:.0%}",
            f"{one.in_flight / 1000:.0f}",
            f"{one.instructions:.1f} + {one.head_instructions:.1f}",
            f"{one.issue_share:.0%}",
            f"{one.predicted:.0%}",
            one.limit,
        ]
        for one in found
    ]
    return table(header, lines)


def bound_by_issue(found: Sequence[Report]) -> str:
    """Return a sentence on the rows whose instructions, not their bytes, are predicted to bound them."""
    rows = [one for one in found if one.limit == "issue" and one.predicted < 0.99]
    if not rows:
        return "Memory bounds every row."
    kinds, gpus = (list(dict.fromkeys(names)) for names in ([one.dtype for one in rows], [one.target for one in rows]))
    worst = min(rows, key=lambda one: one.predicted)
    return (
        f"Instructions, not bytes, bound {len(rows)} rows, on {' and '.join(GPUS[name].name for name in gpus)}: "
        f"{'; '.join(kinds)}. The least is {worst.variant} at {worst.predicted:.0%} of copy bandwidth."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--target", choices=TARGETS, action="append", help="this GPU only; may be repeated")
    kinds = list(map(name_of, KINDS))
    parser.add_argument("--dtype", choices=kinds, metavar="NAME", action="append", help=f"likewise: {', '.join(kinds)}")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each row, and write no files")
    add_results_argument(parser, "codegen", RESULTS)


def run(arguments: argparse.Namespace) -> None:
    """Compile, print the table and write the results."""
    if runtime.INTERPRETED:
        raise SystemExit("`codegen` compiles: unset TRITON_INTERPRET")
    names = arguments.target or list(TARGETS)
    kinds = [kind for kind in KINDS if not arguments.dtype or name_of(kind) in arguments.dtype]
    found = reports(names, kinds)
    if arguments.json:
        for one in found:
            print(json.dumps(asdict(one)))
        return
    products = ", ".join(f"{name} {GPUS[name].name}" for name in names)
    text = (
        f"{markdown(found)}\n\nCounted in the code compiled for {products}; bytes and instructions an element. "
        "Instructions: the branch for whole aligned chunks on its cheapest way without a call, plus what comes before "
        "it. The issue budget is what could be issued while a copy moves the same bytes. The prediction is the lowest "
        "of three roofs (memory, latency, issue; `benchmarks/roofline.py`): an upper bound, and no measurement. "
        f"{bound_by_issue(found)}"
    )
    publish(arguments.results, "codegen", "python -m benchmarks codegen", [asdict(one) for one in found], text)
