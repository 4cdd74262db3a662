"""Compiles what `benchmarks codegen` does not: all switches of the update, every rule's prologue, the reductions.

`test_codegen.py` runs this in a process of its own. It prints a line for each kernel and GPU: bytes of stack, number of
spills, the kernel's name and the GPU.
"""

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks import codegen
from torch_gd.triton_kernels import launch, measure, multi_tensor, reductions, rules

TARGETS = [
    GPUTarget("cuda", 80, 32),
    GPUTarget("cuda", 90, 32),
    GPUTarget("cuda", 100, 32),
    GPUTarget("hip", "gfx942", 64),
]
POINTERS = {
    "table": "*i64",
    "chunks": "*i32",
    "scalars": "*fp32",
    "grad_scale": "*fp32",
    "coefficient": "*fp64",
    "found_inf": "*fp32",
    "unit_coefficients": "*fp64",
    "units": "*i64",
    "partials": "*fp64",
    "result": "*fp64",
    "settings": "*fp64",
    "raw": "*fp64",
    "raw_rows": "*i64",
    "raw_addresses": "*i64",
    "step_addresses": "*i64",
    "firsts": "*i64",
    "norms": "*fp32",
    "map_of_units": "*i32",
    "coefficients": "*fp64",
    "n": "i32",
    "count": "i32",
    "rows": "i32",
    "exponent": "fp32",
}


def compile_kernel(name: str, kernel: object, target: GPUTarget, **constexprs: object) -> None:
    """Compile a kernel for a GPU; arguments that are not constexprs have the types of a launch."""
    arguments = kernel.arg_names  # type: ignore[attr-defined]  # a JITFunction's
    signature = {key: "constexpr" if key in constexprs else POINTERS[key] for key in arguments}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
    compiled = triton.compile(source, target=target, options=launch.LAUNCH_OPTIONS)
    if "cubin" in compiled.asm:
        _, stack, spills = codegen.resources(*codegen.disassemble(compiled.asm["cubin"]))
    else:
        _, stack, spills = codegen.amd_resources(compiled.asm["amdgcn"])
    print(stack, spills, name, target.arch)


def main() -> None:
    """Compile all kernels for all GPUs."""
    block = launch.block_size(torch.float32)
    update = {
        "update": rules.ADAMW.update,
        "rule_options": (False,),
        "compute": tl.float32,
        "WIDTH": 3 + launch.scalars_of(rules.ADAMW, 5),
        "BLOCK": block,
        "SLICE": launch.slice_size(block),
    }
    absent = dict.fromkeys(("grad_scale", "coefficient", "found_inf", "unit_coefficients", "units"))
    dtypes = {
        "mixed": {"dtypes": (tl.bfloat16, tl.float32, tl.bfloat16, tl.float32), "exact": True},
        "half": {"dtypes": (tl.bfloat16,) * 4, "exact": False},
    }
    switches = {
        "scaled": {"grad_scale", "found_inf"},
        "clipped": {"coefficient", "found_inf"},
        "clipped by unit": {"unit_coefficients", "units", "grad_scale"},
    }
    derived = [(rules.SGD, 2), (rules.MOMENTUM, 4), (rules.ADAGRAD, 4), (rules.RMSPROP, 5), (rules.ADAM, 5)]
    for target in TARGETS:
        for which, types in dtypes.items():
            for by_value, l1 in ((True, False), (False, True)):
                flags = {**types, "by_value": by_value, "l1": l1}
                compile_kernel(f"update {flags}", multi_tensor.update_kernel, target, **update, **absent, **flags)
            for name, present in switches.items():
                left = {key: None for key in absent if key not in present}
                flags = {**types, "by_value": False, "l1": False}
                compile_kernel(f"update {which} {name}", multi_tensor.update_kernel, target, **update, **left, **flags)
        for rule, count in (*derived, (rules.ADAMW, 5)):
            prologue = {
                "derive": rule.on_device,
                "RAW": 4 + count,
                "WIDTH": 3 + launch.scalars_of(rule, count),
                "raw_dtype": tl.float32,
                "step_dtype": tl.float32,
                "BLOCK": 128,
            }
            compile_kernel("prologue", multi_tensor.scalars_kernel, target, **prologue)
            rest = {"raw_rows": None, "raw_addresses": None, "found_inf": None}
            compile_kernel("prologue alone", multi_tensor.scalars_kernel, target, **prologue, **rest)
        for order in ("1", "2", "inf", "p"):
            sizes = {"column": 3, "CHUNK": measure.CHUNK, "BLOCK": measure.BLOCK}
            for dtype, compute in ((tl.float32, tl.float32), (tl.bfloat16, tl.float32), (tl.float64, tl.float64)):
                types = {"dtype": dtype, "compute": compute, "order": order}
                compile_kernel(f"partial {order} {dtype}", reductions.partial_kernel, target, **types, **sizes)
            compile_kernel(f"tensor norm {order}", reductions.tensor_norm_kernel, target, order=order, BLOCK=128)
            finish = {"order": order, "skip_nonfinite": True, "compute": tl.float32, "BLOCK": measure.FINISH}
            compile_kernel(f"coefficient {order}", reductions.coefficient_kernel, target, **finish)
        units = {"p_dtype": tl.float32, "g_dtype": tl.bfloat16, "compute": tl.float32, "BLOCK": measure.UNIT}
        compile_kernel("unit", reductions.unit_kernel, target, **units)


if __name__ == "__main__":
    main()
