"""Counts in the code that each rule compiles to, for GPUs that need not be here, and a prediction from them."""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from tqdm import tqdm
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from torch_gd.triton_kernels import launch, rules, runtime
from torch_gd.triton_kernels.multi_tensor import update_kernel
from torch_gd.triton_kernels.rule import Rule
from torch_gd.triton_kernels.table import TRITON_DTYPES

from .assembly import AMDGCN, SASS, common_case
from .report import RESULTS, add_results_argument, publish, table
from .roofline import GPUS, predict
from .tensors import dtype_name

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@dataclass(frozen=True)
class Variant:
    """A rule with options that change its code, and the number of states and hyperparameters that it takes."""

    name: str
    rule: Rule
    options: tuple[Any, ...]
    states: int
    hyperparameters: int


VARIANTS = [
    Variant("sgd", rules.SGD, (), 0, 2),
    Variant("momentum", rules.MOMENTUM, (False,), 1, 4),
    Variant("nag", rules.MOMENTUM, (True,), 1, 4),
    Variant("adagrad", rules.ADAGRAD, (), 1, 4),
    Variant("rmsprop", rules.RMSPROP, (False, False), 1, 5),
    Variant("rmsprop momentum", rules.RMSPROP, (False, True), 2, 5),
    Variant("rmsprop centered", rules.RMSPROP, (True, False), 2, 5),
    Variant("rmsprop centered momentum", rules.RMSPROP, (True, True), 3, 5),
    Variant("adam", rules.ADAM, (False,), 2, 5),
    Variant("adam amsgrad", rules.ADAM, (True,), 3, 5),
    Variant("adamw", rules.ADAMW, (False,), 2, 5),
    Variant("adamw amsgrad", rules.ADAMW, (True,), 3, 5),
]


@dataclass(frozen=True)
class Report:
    """Counts in the compiled code of one variant for one dtype and one GPU; bytes and instructions are per element."""

    variant: str
    dtype: str
    target: str
    block: int
    num_warps: int
    bytes: float  # loaded and stored by the branch for whole chunks
    least_bytes: int  # each tensor read once, and all but the gradient written once
    wide_share: float  # share of those accesses that are 128 bits wide
    registers: int  # per thread
    stack: int  # bytes per thread
    spills: int  # loads and stores of spilled registers
    approximate: list[str]  # divisions and square roots in the PTX that are not correctly rounded
    programs: int  # resident on a core at once
    occupancy: float  # share of the threads that a core can hold
    in_flight: int  # bytes per core: what all resident threads load before they use any of it
    instructions: float  # of the branch for whole chunks, in the common case
    head_instructions: float  # before that branch: reading the metadata
    issue_share: float  # share that the branch takes of the issue slots that pass while a copy moves the same bytes
    predicted: float  # share of copy bandwidth: a prediction, not a measurement
    limit: str  # what bounds the prediction


def compile_update(variant: Variant, dtype: torch.dtype, target: GPUTarget) -> Any:
    """Compile the update kernel for aligned tables, as the launcher does for tensors of one dtype."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    streams = 2 + variant.states
    constexprs = {
        **dict.fromkeys(("grad_scale", "coefficient", "found_inf", "unit_coefficients", "units")),
        "by_value": False,
        "l1": False,
        "update": variant.rule.update,
        "rule_options": variant.options,
        "dtypes": (TRITON_DTYPES[dtype],) * streams,
        "compute": TRITON_DTYPES[compute],
        "exact": launch.needs_exact([dtype]),
        "WIDTH": width(variant),
        "BLOCK": launch.block_size(compute, target.warp_size),
        "SLICE": launch.slice_size(launch.block_size(compute, target.warp_size)),
    }
    scalars = "*fp64" if compute == torch.float64 else "*fp32"
    signature = {"table": "*i64", "chunks": "*i32", "scalars": scalars, "n": "i32"} | dict.fromkeys(
        constexprs, "constexpr"
    )
    source = ASTSource(
        fn=update_kernel,
        signature={name: signature[name] for name in update_kernel.arg_names},
        constexprs=constexprs,
        attrs={(i,): [["tt.divisibility", 16]] for i in range(3)},
    )
    return triton.compile(source, target=target, options=launch.LAUNCH_OPTIONS)


def width(variant: Variant) -> int:
    """Return the scalars in a row: the gradient's factor and bound, the L1 threshold, and those the rule derives."""
    return 3 + launch.scalars_of(variant.rule, variant.hyperparameters)


def report(variant: Variant, dtype: torch.dtype, name: str, compiled: Any) -> Report:
    """Return the counts in the code that `compile_update` returned."""
    target, gpu = TARGETS[name], GPUS[name]
    block = launch.block_size(torch.float64 if dtype == torch.float64 else torch.float32, target.warp_size)
    threads = target.warp_size * launch.NUM_WARPS
    elements = block // threads
    if "cubin" in compiled.asm:
        sass, usage = disassemble(compiled.asm["cubin"])
        registers, stack, spills = resources(sass, usage)
        case = common_case(sass, SASS)
    else:
        registers, stack, spills = amd_resources(compiled.asm["amdgcn"])
        case = common_case(compiled.asm["amdgcn"], AMDGCN)
    moved = sum(case.accesses) / elements
    least = (3 + 2 * variant.states) * dtype.itemsize
    programs = gpu.resident_programs(registers, launch.NUM_WARPS)
    predicted = predict(gpu, programs, block, moved, least, (case.head + case.body) / elements)
    return Report(
        variant=variant.name,
        dtype=dtype_name(dtype),
        target=name,
        block=block,
        num_warps=launch.NUM_WARPS,
        bytes=moved,
        least_bytes=least,
        wide_share=case.accesses.count(16) / len(case.accesses),
        registers=registers,
        stack=stack,
        spills=spills,
        approximate=sorted(
            set(re.findall(r"\b(?:div|sqrt|rsqrt|rcp)\.(?:full|approx)\S*", compiled.asm.get("ptx", "")))
        ),
        programs=programs,
        occupancy=programs * threads / gpu.threads,
        in_flight=programs * threads * case.in_flight * 16,
        instructions=case.body / elements,
        head_instructions=case.head / elements,
        issue_share=case.body / elements / (moved * gpu.instructions_a_byte),
        predicted=predicted.share,
        limit=predicted.limit,
    )


def disassemble(cubin: bytes) -> tuple[str, str]:
    """Return a cubin's SASS and its resource usage, as the tools in Triton's wheel print them."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass, usage = (
            subprocess.run([tools / name, option, file.name], capture_output=True, text=True).stdout
            for name, option in (("nvdisasm", "-c"), ("cuobjdump", "-res-usage"))
        )
    return sass, usage


def resources(sass: str, usage: str) -> tuple[int, int, int]:
    """Return the registers and the bytes of stack per thread, and the loads and stores of spilled registers."""
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump reported no registers: {usage!r}")
    return int(found.group(1)), int(found.group(2)), len(re.findall(r"\b(?:LDL|STL)\b", sass))


def amd_resources(assembly: str) -> tuple[int, int, int]:
    """Return the same as `resources`, from the metadata of AMD code."""
    return (
        int(re.findall(r"\.vgpr_count:\s*(\d+)", assembly)[0]),
        int(re.findall(r"\.private_segment_fixed_size:\s*(\d+)", assembly)[0]),
        int(re.findall(r"\.vgpr_spill_count:\s*(\d+)", assembly)[0]),
    )


def reports(names: Sequence[str] = tuple(TARGETS), dtypes: Sequence[torch.dtype] = DTYPES) -> list[Report]:
    """Return a report for every target, variant and dtype."""
    configurations = list(product(VARIANTS, dtypes, names))
    with ThreadPoolExecutor(2) as pool:  # disassembles one while the next is compiled
        pending = [
            pool.submit(report, variant, dtype, name, compile_update(variant, dtype, TARGETS[name]))
            for variant, dtype, name in tqdm(configurations, desc="codegen", leave=False)
        ]
    order = list(names)
    return sorted((one.result() for one in pending), key=lambda one: order.index(one.target))


def markdown(found: Sequence[Report]) -> str:
    """Return a table with a row for each variant, dtype and target."""
    header = ["target", "dtype", "rule", "bytes (least)", "128-bit", "registers", "stack", "occupancy", "KB in flight"]
    header += ["instructions", "of issue budget", "PREDICTED % of copy", "limit"]
    lines = [
        [
            one.target,
            one.dtype,
            one.variant,
            f"{one.bytes:g} ({one.least_bytes})",
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--target", choices=TARGETS, action="append", help="this GPU only; may be repeated")
    parser.add_argument("--dtype", choices=list(map(dtype_name, DTYPES)), action="append", help="likewise")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each row, and write no files")
    add_results_argument(parser, "codegen", RESULTS)


def run(arguments: argparse.Namespace) -> None:
    """Compile, print the table and write the results."""
    if runtime.INTERPRETED:
        raise SystemExit("`codegen` compiles: unset TRITON_INTERPRET")
    names = arguments.target or list(TARGETS)
    dtypes = [getattr(torch, name) for name in arguments.dtype] if arguments.dtype else DTYPES
    found = reports(names, dtypes)
    if arguments.json:
        for one in found:
            print(json.dumps(asdict(one)))
        return
    products = ", ".join(f"{name} {GPUS[name].name}" for name in names)
    text = (
        f"{markdown(found)}\n\nCounted in the code compiled for {products}; bytes and instructions an element. "
        "Instructions: the branch for whole aligned chunks on its cheapest way without a call, plus what comes before "
        "it. The issue budget is what could be issued while a copy moves the same bytes. The prediction is the lowest "
        "of three roofs (memory, latency, issue; `benchmarks/roofline.py`): an upper bound, and no measurement."
    )
    publish(arguments.results, "codegen", "python -m benchmarks codegen", [asdict(one) for one in found], text)
