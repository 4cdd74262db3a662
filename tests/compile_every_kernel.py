"""Compiles every kernel for GPUs that need not be here, and prints a line of JSON for each, for `test_codegen.py`.

It is a process of its own, since kernels are interpreted in that of the tests. Not everything is compiled for every
GPU: rules are, in float32; mixes of dtypes for one, some for all; other kernels for one of each vendor, some for all.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from triton.compiler import ASTSource

from benchmarks import codegen, compiled
from benchmarks.compiled import TARGETS, VARIANTS, Variant
from torch_gd.triton_kernels import launch, measure, multi_tensor, reductions

BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
VARIANT = {variant.name: variant for variant in VARIANTS}
# Ways of storing, each codec among them, by the GPU that AdamW is compiled for.
STORED = {
    "sm_90": ("bf16+16, float32", "bf16+8, bf16", "float16 stochastic, bf16", "bf16+8, 8bit", "float32, 8bit"),
    "sm_100": ("bf16+8, 8bit",),
    "gfx942": ("stochastic, 8bit",),
}
ALL, ONE, EACH_VENDOR = tuple(TARGETS), ("sm_90",), ("sm_90", "gfx942")
OTHERS = tuple(target for target in ALL if target not in EACH_VENDOR)
POINTERS = compiled.ON_DEVICE | {
    "table": "*i64",
    "chunks": "*i32",
    "scalars": "*fp32",
    "partials": "*fp64",
    "result": "*fp64",
    "settings": "*fp64",
    "raw": "*fp64",
    "raw_rows": "*i64",
    "raw_addresses": "*i64",
    "step_addresses": "*i64",
    "firsts": "*i64",
    "norms": "*fp32",
    "out": "*fp64",
    "map_of_units": "*i32",
    "coefficients": "*fp64",
    "n": "i32",
    "count": "i32",
    "rows": "i32",
}


def show(kind: str, name: str, target: str, code: Any, **more: Any) -> None:
    """Print what is counted in a compiled kernel."""
    registers, stack = compiled.resources(code)
    row = {"kind": kind, "name": name, "target": target, "registers": registers, "stack": stack}
    row |= {"exchanges": compiled.exchanges(code), "approximate": compiled.approximate(code)}
    print(json.dumps(row | more))


def show_update(name: str, variant: Variant, dtypes: Sequence[torch.dtype], target: str, **switches: Any) -> None:
    """Compile the update for a mix of dtypes, and print what is counted in it."""
    code = compiled.compile_update(variant, dtypes, TARGETS[target], **switches)
    threads = TARGETS[target].warp_size * launch.NUM_WARPS
    elements = variant.block(dtypes, TARGETS[target]) // threads
    sizes, accessed = ([dtype.itemsize for dtype in some] for some in (dtypes, variant.accessed(dtypes)))
    more = {"sizes": sizes, "accessed": accessed, "elements": elements, "accesses": compiled.accesses(code)}
    show("update", name, target, code, **more)


def mixes() -> Iterator[tuple[str, tuple[torch.dtype, ...], tuple[str, ...]]]:
    """Yield rules with dtypes of parameter, gradient and states, and the GPUs to compile them for.

    Any of the four may meet any other: torch lets a gradient differ from its parameter (`grad_dtype`), states keep
    their dtype when the parameters are converted, and a checkpoint may bring another for each. What is compiled depends
    on their sizes, and float16 is as large as bfloat16.
    """
    for dtypes in product((FP32, BF16, FP64), (FP32, FP16, FP64), (FP32, BF16, FP64)):
        yield "momentum", dtypes, ONE
    for variant in VARIANTS:
        for dtype in (FP16, FP64):
            yield variant.name, (dtype,) * variant.streams, ONE
    yield "adamw", (BF16, BF16, FP32, FP32), ALL
    yield "adamw", (FP32, BF16, FP32, FP32), ALL
    yield "adamw", (BF16, FP32, BF16, FP32), ALL
    yield "adamw amsgrad", (FP16, FP16, FP16, FP32, FP64), ALL
    yield "adamw amsgrad", (FP64, BF16, FP32, FP32, BF16), ONE
    for one in ("lamb measure", "lamb apply"):
        yield one, (BF16, BF16, FP32, FP32), ONE
        yield one, (BF16, BF16, BF16, FP16), ONE
    yield "rmsprop centered momentum", (BF16, BF16, FP32, BF16, FP32), ONE


SWITCHES: dict[str, dict[str, Any]] = {
    "scaled": {"present": ("grad_scale", "found_inf")},
    "clipped": {"present": ("coefficient", "found_inf")},
    "clipped by unit": {"present": ("unit_coefficients", "units", "grad_scale")},
    "clipped by value": {"by_value": True},
    "with l1": {"l1": True},
}


def show_updates() -> None:
    """Compile the update for all mixes, and with all switches."""
    for name, dtypes, targets in mixes():
        for target in targets:
            show_update(name, VARIANT[name], dtypes, target)
    for (name, switches), target in product(SWITCHES.items(), ALL):
        show_update(name, VARIANT["adamw"], (FP32,) * 4, target, **switches)
    for name, switches in SWITCHES.items():
        for dtypes in ((BF16,) * 4, (BF16, FP32, BF16, FP32)):
            show_update(name, VARIANT["adamw"], dtypes, ONE[0], **switches)


def show_kernel(name: str, kernel: Any, target: str, loop: bool = False, **constexprs: Any) -> None:
    """Compile a kernel; arguments that are not constexprs have the types of a launch.

    Args:
        name: its name for the tests.
        kernel: what `@triton.jit` made.
        target: the GPU.
        loop: whether to show the accesses of its branch for aligned chunks, rather than count all its loads.
        constexprs: the values of its constexprs, and None for arguments that are left out.
    """
    signature = {key: "constexpr" if key in constexprs else POINTERS[key] for key in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
    code = triton.compile(source, target=TARGETS[target], options=launch.LAUNCH_OPTIONS)
    more = {"accesses": compiled.accesses(code)} if loop else {"loads": code.asm.get("ptx", "").count("ld.global.")}
    show("kernel", name, target, code, **more)


def show_prologues(targets: Sequence[str], names: Sequence[str]) -> None:
    """Compile the prologue of each rule, with all and with none of its arguments."""
    for variant in map(VARIANT.__getitem__, names):
        prologue = {
            "derive": variant.rule.on_device,
            "factors": variant.rule.factors_on_device,
            "RAW": 4 + variant.hyperparameters,
            "PRODUCTS": int(variant.rule.factors is not None),
            "WIDTH": compiled.width(variant),
            "raw_dtype": tl.float32,
            "step_dtype": tl.float32,
            "BLOCK": launch.PROLOGUE_BLOCK,
        }
        absent = dict.fromkeys(("raw_rows", "raw_addresses", "step_addresses", "found_inf"))
        for target in targets:
            show_kernel(f"prologue of {variant.name}", multi_tensor.scalars_kernel, target, **prologue)
            if variant.rule.factors is None:  # products and counters are there together
                show_kernel(
                    f"prologue of {variant.name} alone", multi_tensor.scalars_kernel, target, **prologue, **absent
                )


def show_reductions(targets: Sequence[str], orders: Sequence[float]) -> None:
    """Compile the kernels for norms."""
    for target, order in product(targets, orders):
        sizes = {"column": 3, "CHUNK": measure.CHUNK, "BLOCK": measure.BLOCK}
        for dtype, compute in ((tl.float32, tl.float32), (tl.bfloat16, tl.float32), (tl.float64, tl.float64)):
            types = {"dtype": dtype, "compute": compute, "order": order}
            loop = order != 3.0  # whose logarithms take loops of their own
            show_kernel(f"partial {order} {dtype}", reductions.partial_kernel, target, loop, **types, **sizes)
        show_kernel(f"tensor norm {order}", reductions.tensor_norm_kernel, target, order=order, BLOCK=128)
        for compute in (tl.float32, tl.float64):
            finish = {"order": order, "skip_nonfinite": True, "compute": compute, "BLOCK": measure.FINISH}
            show_kernel(f"coefficient {order} {compute}", reductions.coefficient_kernel, target, **finish)
    for target in targets:
        units = {"p_dtype": tl.float32, "g_dtype": tl.bfloat16, "compute": tl.float32, "BLOCK": measure.UNIT}
        show_kernel("unit", reductions.unit_kernel, target, **units)


def show_ratios(targets: Sequence[str]) -> None:
    """Compile the kernel between the two passes of a layer-wise rule, also without the last part of its work."""
    for target in targets:
        for variant in (VARIANT["lamb apply"], VARIANT["lars apply"]):
            sizes = {"WIDTH": compiled.width(variant), "BLOCK": measure.FINISH}
            show_kernel(f"ratios {variant.name}", reductions.ratio_kernel, target, trust=variant.rule.trust, **sizes)
        show_kernel("sums of layers", reductions.ratio_kernel, target, trust=None, **sizes)


def main() -> None:
    """Compile all kernels."""
    for one in [*codegen.reports(ALL, [FP32]), *codegen.reports(["sm_100", "gfx942"], [BF16])]:
        print(json.dumps({"kind": "rule", **asdict(one)}))
    for name, storages in STORED.items():
        kinds = [one for one in compiled.STORAGES if one.name in storages]
        for found in codegen.reports([name], kinds, [VARIANT["adamw"]]):
            print(json.dumps({"kind": "stored", **asdict(found)}))
    show_updates()
    show_prologues(EACH_VENDOR, ["sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw", "radam", "nadam"])
    show_prologues(ONE, ["lamb apply", "lars apply"])
    show_prologues(OTHERS, ["adamw"])
    show_reductions(EACH_VENDOR, [1.0, 2.0, float("inf"), 3.0])
    show_reductions(OTHERS, [2.0])
    show_ratios(EACH_VENDOR)


if __name__ == "__main__":
    main()
