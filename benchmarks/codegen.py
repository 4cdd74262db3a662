"""What the compiler makes of each rule, for GPUs that need not be here: PTX, SASS and what follows from them."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from torch_gd.triton_kernels import launch, rules
from torch_gd.triton_kernels.multi_tensor import update_kernel
from torch_gd.triton_kernels.rule import Rule
from torch_gd.triton_kernels.table import TRITON_DTYPES

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@dataclass(frozen=True)
class Variant:
    """A rule as it is compiled: its options, how many states and raw hyperparameters it takes."""

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
    """Counted in the compiled code of one variant, one dtype and one GPU."""

    variant: str
    dtype: str
    target: str
    block: int
    num_warps: int
    streams: int  # tensors read: parameter, gradient, states
    least_loads: int  # 128-bit loads a thread that the bulk of a whole chunk needs
    least_stores: int
    wide_loads: int  # 128-bit loads there are
    wide_stores: int
    narrow_loads: int  # others, outside the masked branch: chunk, table and scalars are to be all of them
    narrow_stores: int
    metadata_loads: int
    registers: int
    stack: int  # bytes a thread
    spills: int


def compile_update(variant: Variant, dtype: torch.dtype, target: GPUTarget) -> Any:
    """Compiles the update launch for aligned tables, as the launcher would for tensors of one dtype."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    streams = 2 + variant.states
    constexprs = {
        "grad_scale": None,
        "found_inf": None,
        "update": variant.rule.update,
        "options": variant.options,
        "dtypes": (TRITON_DTYPES[dtype],) * streams,
        "compute": TRITON_DTYPES[compute],
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
    """Scalars a row: the gradient's factor and what the rule derives."""
    return 1 + len(variant.rule.on_host(1.0, (0.5,) * variant.hyperparameters))


def report(variant: Variant, dtype: torch.dtype, name: str) -> Report:
    """Compiles and counts."""
    target = TARGETS[name]
    compiled = compile_update(variant, dtype, target)
    block = launch.block_size(torch.float64 if dtype == torch.float64 else torch.float32, target.warp_size)
    streams = 2 + variant.states
    per_thread = block // (target.warp_size * launch.NUM_WARPS) * dtype.itemsize // 16
    counted = count_ptx(compiled.asm["ptx"]) if "ptx" in compiled.asm else count_amdgcn(compiled.asm["amdgcn"])
    usage = resources(compiled.asm["cubin"]) if "cubin" in compiled.asm else amd_resources(compiled.asm["amdgcn"])
    return Report(
        variant=variant.name,
        dtype=str(dtype).removeprefix("torch."),
        target=name,
        block=block,
        num_warps=launch.NUM_WARPS,
        streams=streams,
        least_loads=streams * per_thread,
        least_stores=(streams - 1) * per_thread,
        metadata_loads=2 + 2 + streams + width(variant),
        wide_loads=counted["wide_loads"],
        wide_stores=counted["wide_stores"],
        narrow_loads=counted["narrow_loads"],
        narrow_stores=counted["narrow_stores"],
        registers=usage[0],
        stack=usage[1],
        spills=usage[2],
    )


def count_ptx(ptx: str) -> dict[str, int]:
    """Accesses of global memory outside the masked branch, whose own are predicated lane by lane."""
    counts = dict.fromkeys(("wide_loads", "wide_stores", "narrow_loads", "narrow_stores"), 0)
    for line in ptx.splitlines():
        access = re.match(r"\s*(@%p\d+ )?(ld|st)\.global\S*", line)
        if access is None or access.group(1):
            continue
        wide = re.search(r"\.v4\.[bfu]32|\.v2\.[bfu]64", access.group(0)) is not None
        kind = "loads" if access.group(2) == "ld" else "stores"
        counts[f"{'wide' if wide else 'narrow'}_{kind}"] += 1
    return counts


def count_amdgcn(assembly: str) -> dict[str, int]:
    """Wide accesses in AMD code; its masked branch and metadata are told apart only by their width."""
    found = re.findall(r"(?:global|flat)_(load|store)_(\w+)", assembly)
    counts = dict.fromkeys(("wide_loads", "wide_stores", "narrow_loads", "narrow_stores"), 0)
    for kind, size in found:
        counts[f"{'wide' if size.startswith('dwordx4') else 'narrow'}_{kind}s"] += 1
    return counts


def resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers a thread, bytes of stack, and loads and stores of local memory (spills) in the SASS."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True).stdout
        sass = subprocess.run([tools / "nvdisasm", "-c", file.name], capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump reported no registers: {usage!r}")
    return int(found.group(1)), int(found.group(2)), len(re.findall(r"\b(?:LDL|STL)\b", sass))


def amd_resources(assembly: str) -> tuple[int, int, int]:
    """The same of AMD code, whose metadata names them."""
    return (
        int(re.findall(r"\.vgpr_count:\s*(\d+)", assembly)[0]),
        int(re.findall(r"\.private_segment_fixed_size:\s*(\d+)", assembly)[0]),
        int(re.findall(r"\.vgpr_spill_count:\s*(\d+)", assembly)[0]),
    )


def reports() -> Iterator[Report]:
    """Every variant × dtype × target."""
    for name in TARGETS:
        for variant in VARIANTS:
            for dtype in DTYPES:
                yield report(variant, dtype, name)


def main() -> None:
    """Prints every report as a line of JSON."""
    import json

    for row in reports():
        print(json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    main()
