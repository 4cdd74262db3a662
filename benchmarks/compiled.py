"""Compiles the update kernel for GPUs that need not be here, and reads what came out."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
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

from .assembly import AMDGCN, PTX, common_case

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
ON_DEVICE = {
    "grad_scale": "*fp32",
    "coefficient": "*fp64",
    "found_inf": "*fp32",
    "unit_coefficients": "*fp64",
    "units": "*i64",
}


@dataclass(frozen=True)
class Variant:
    """A rule with options that change its code, and the number of states and hyperparameters (with products)."""

    name: str
    rule: Rule
    options: tuple[Any, ...]
    states: int
    hyperparameters: int

    @property
    def streams(self) -> int:
        """Return how many tensors there are of each parameter: itself, its gradient and its states."""
        return 2 + self.states


VARIANTS = [
    Variant("sgd", rules.SGD, (), 0, 2),
    Variant("momentum", rules.MOMENTUM, (False,), 1, 4),
    Variant("nag", rules.MOMENTUM, (True,), 1, 4),
    Variant("sgdw momentum", rules.SGDW, (False,), 1, 4),
    Variant("adagrad", rules.ADAGRAD, (), 1, 4),
    Variant("adadelta", rules.ADADELTA, (), 2, 4),
    Variant("rmsprop", rules.RMSPROP, (False, False), 1, 5),
    Variant("rmsprop momentum", rules.RMSPROP, (False, True), 2, 5),
    Variant("rmsprop centered", rules.RMSPROP, (True, False), 2, 5),
    Variant("rmsprop centered momentum", rules.RMSPROP, (True, True), 3, 5),
    Variant("adam", rules.ADAM, (False,), 2, 5),
    Variant("adam amsgrad", rules.ADAM, (True,), 3, 5),
    Variant("adamw", rules.ADAMW, (False,), 2, 5),
    Variant("adamw amsgrad", rules.ADAMW, (True,), 3, 5),
    Variant("adamax", rules.ADAMAX, (), 2, 5),
    Variant("nadam", rules.NADAM, (False,), 2, 7),
    Variant("radam", rules.RADAM, (False,), 2, 5),
    Variant("lion", rules.LION, (), 1, 4),
]


def compile_update(
    variant: Variant, dtypes: Sequence[torch.dtype], target: GPUTarget, present: Sequence[str] = (), **switches: bool
) -> Any:
    """Compile the update kernel for aligned tables, as the launcher does.

    Args:
        variant: the rule.
        dtypes: of parameter, gradient and each state.
        target: the GPU.
        present: the arguments on the device that are not None.
        switches: `by_value`, `l1`; False by default.
    """
    compute = compute_dtype(dtypes)
    constexprs: dict[str, Any] = {name: None for name in ON_DEVICE if name not in present}
    constexprs |= {
        "by_value": False,
        "l1": False,
        **switches,
        "update": variant.rule.update,
        "rule_options": variant.options,
        "dtypes": tuple(TRITON_DTYPES[dtype] for dtype in dtypes),
        "compute": TRITON_DTYPES[compute],
        "exact": launch.needs_exact(dtypes),
        "WIDTH": width(variant),
        "BLOCK": launch.block_size(compute, target.warp_size),
        "SLICE": launch.slice_size(launch.block_size(compute, target.warp_size)),
        "EACH": launch.access_size(dtypes),
    }
    scalars = "*fp64" if compute == torch.float64 else "*fp32"
    signature = {"table": "*i64", "chunks": "*i32", "scalars": scalars, "n": "i32"} | ON_DEVICE
    signature |= dict.fromkeys(constexprs, "constexpr")
    source = ASTSource(
        fn=update_kernel,
        signature={name: signature[name] for name in update_kernel.arg_names},
        constexprs=constexprs,
        attrs={(i,): [["tt.divisibility", 16]] for i in range(3)},
    )
    return triton.compile(source, target=target, options=launch.LAUNCH_OPTIONS)


def compute_dtype(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """Return the dtype of the arithmetic."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def width(variant: Variant) -> int:
    """Return the scalars in a row: the gradient's factor and bound, the L1 threshold, and those the rule derives."""
    return 3 + launch.scalars_of(variant.rule, variant.hyperparameters)


def run_tool(name: str, option: str, cubin: bytes) -> str:
    """Return what a tool in Triton's wheel prints of a cubin."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, option, file.name], capture_output=True, text=True).stdout


def resources(compiled: Any) -> tuple[int, int]:
    """Return the registers and the bytes of stack per thread; spilled registers lie on the stack."""
    if "cubin" in compiled.asm:
        text = run_tool("cuobjdump", "-res-usage", compiled.asm["cubin"])
        found = re.search(r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+)", text)
    else:
        text = compiled.asm["amdgcn"]
        found = re.search(
            r"\.private_segment_fixed_size:\s*(?P<stack>\d+).*\.vgpr_count:\s*(?P<registers>\d+)", text, re.S
        )
    if found is None:
        raise RuntimeError(f"no count of registers in {text!r}")
    return int(found["registers"]), int(found["stack"])


def accesses(compiled: Any) -> tuple[int, ...]:
    """Return the bytes of each access to global memory in the common case, without a disassembler."""
    if "ptx" in compiled.asm:
        return common_case(compiled.asm["ptx"], PTX).accesses
    return common_case(compiled.asm["amdgcn"], AMDGCN).accesses


def exchanges(compiled: Any) -> list[str]:
    """Return the instructions by which threads wait for one another, or exchange values."""
    text = compiled.asm.get("ptx") or compiled.asm["amdgcn"]
    return sorted(set(re.findall(r"\b(?:bar\.\w+|shfl\.\w+|(?:ld|st)\.shared|s_barrier|ds_\w+)|\w+_dpp\b", text)))


def approximate(compiled: Any) -> list[str]:
    """Return the divisions and square roots of float32 in the PTX that are not correctly rounded."""
    inexact = r"\b(?:div|sqrt|rsqrt|rcp)\.(?:full|approx)[.\w]*\.f32"
    return sorted(set(re.findall(inexact, compiled.asm.get("ptx", ""))))
