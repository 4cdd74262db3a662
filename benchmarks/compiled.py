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

from torch_gd.triton_kernels import codecs, launch, layer_rules, layers, rules
from torch_gd.triton_kernels.codecs import Codec, Codecs, plain
from torch_gd.triton_kernels.multi_tensor import HEAD, update_kernel
from torch_gd.triton_kernels.rule import LayerRule, Rule
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
    "partials": "*fp64",
    "ratios": "*fp64",
}


@dataclass(frozen=True)
class Variant:
    """A rule with options that change its code, and the number of states and hyperparameters (with products)."""

    name: str
    rule: Rule
    options: tuple[Any, ...]
    states: int
    hyperparameters: int
    measuring: bool = False  # of a layer-wise rule, whether this is the pass that measures

    @property
    def streams(self) -> int:
        """Return how many tensors there are of each parameter: itself, its gradient and its states."""
        return 2 + self.states

    def functions(self, dtypes: Sequence[torch.dtype] | Codecs) -> layers.Functions:
        """Return what the kernel calls of the rule, and whether it stores the states."""
        if not isinstance(self.rule, LayerRule):
            return layers.Functions((self.rule.update, None, None), True)
        measure, apply = layers.passes(self.rule, list(as_codecs(dtypes))[2:])
        return measure if self.measuring else apply

    def block(self, dtypes: Sequence[torch.dtype] | Codecs, target: GPUTarget) -> int:
        """Return how many elements a program works on."""
        block = launch.block_size(compute_dtype(dtypes), target.warp_size)
        return layers.measuring_block(block, launch.needs_exact(as_codecs(dtypes))) if self.measuring else block

    def least_bytes(self, columns: Sequence[torch.dtype] | Codecs) -> float:
        """Return the bytes of an element that must be read and written."""
        if not isinstance(columns, Codecs):
            return sum(dtype.itemsize for dtype in self.accessed(columns))
        p, g, *states = map(stored_bytes, columns)
        return 2 * (p + sum(states)) + g

    def accessed(self, dtypes: Sequence[torch.dtype]) -> list[torch.dtype]:
        """Return the dtypes of what must be read and written of an element: all that is needed, all that is changed."""
        (_, direction, advance), stores = self.functions(dtypes)
        (p, g, *states), written = dtypes, dtypes[2:] if stores else ()
        if self.measuring:
            return [p, g, *(states if advance is not None else ()), *written]
        from_states = direction is not None and not stores  # the step is derived without the gradient
        return [p, *(() if from_states else (g,)), *states, p, *written]


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
    Variant("lamb measure", layer_rules.LAMB, (False,), 2, 13, measuring=True),
    Variant("lamb apply", layer_rules.LAMB, (False,), 2, 13),
    Variant("lars measure", layer_rules.LARS_MOMENTUM, (False,), 1, 9, measuring=True),
    Variant("lars apply", layer_rules.LARS_MOMENTUM, (False,), 1, 9),
]


@dataclass(frozen=True)
class Storage:
    """A way of storing weights and states, beside a gradient in half precision or as the weight.

    Args:
        name: what a `torch_gd.Precision` calls weights and states.
        weight: the parameter's codec.
        gradient: dtype of gradients.
        state: the codec of a state that may be negative.
        positive: the codec of one that may not.
    """

    name: str
    weight: Codec
    gradient: torch.dtype
    state: Codec
    positive: Codec

    def codecs(self, variant: Variant) -> Codecs:
        """Return the codecs of a variant's columns."""
        states = (self.positive if name else self.state for name in NON_NEGATIVE[variant.name])
        return Codecs([self.weight, plain(TRITON_DTYPES[self.gradient]), *states])


# Of the rules that are compiled for every storage: which of their states cannot be negative.
NON_NEGATIVE = {"momentum": (False,), "rmsprop": (True,), "adamw": (False, True)}
_FP32, _BF16 = (plain(TRITON_DTYPES[dtype]) for dtype in (torch.float32, torch.bfloat16))
_NOISY16, _NOISY_FP16 = (codecs.stochastic(TRITON_DTYPES[dtype]) for dtype in (torch.bfloat16, torch.float16))
STORAGES = [
    Storage("bf16+16, float32", codecs.SPLIT16, torch.bfloat16, _FP32, _FP32),
    Storage("bf16+16, bf16", codecs.SPLIT16, torch.bfloat16, _BF16, _NOISY16),
    Storage("bf16+8, bf16", codecs.SPLIT8, torch.bfloat16, _BF16, _NOISY16),
    Storage("bf16+8, 8bit", codecs.SPLIT8, torch.bfloat16, codecs.SIGNED8, codecs.UNSIGNED8),
    Storage("stochastic, bf16", _NOISY16, torch.bfloat16, _BF16, _NOISY16),
    Storage("stochastic, 8bit", _NOISY16, torch.bfloat16, codecs.SIGNED8, codecs.UNSIGNED8),
    Storage("float16 stochastic, bf16", _NOISY_FP16, torch.float16, _BF16, _NOISY16),
    Storage("float32, 8bit", _FP32, torch.float32, codecs.SIGNED8, codecs.UNSIGNED8),
]


def stored_bytes(codec: Codec) -> float:
    """Return the bytes that a codec stores of an element."""
    scale: float = codec.rest.primitive_bitwidth / codec.group if codec.group else 0.0
    bits: float = sum(dtype.primitive_bitwidth for dtype in codec.by_element)
    return (bits + scale) / 8


def as_codecs(columns: Sequence[torch.dtype] | Codecs) -> Codecs:
    """Return the codecs of columns that are given by their dtypes."""
    return columns if isinstance(columns, Codecs) else Codecs(plain(TRITON_DTYPES[dtype]) for dtype in columns)


def compile_update(
    variant: Variant,
    columns: Sequence[torch.dtype] | Codecs,
    target: GPUTarget,
    present: Sequence[str] = (),
    **switches: bool,
) -> Any:
    """Compile the update kernel for aligned tables, as the launcher does.

    Args:
        variant: the rule.
        columns: dtypes or codecs of parameter, gradient and each state.
        target: the GPU.
        present: the arguments on the device that are not None.
        switches: `by_value`, `l1`; False by default.
    """
    codecs = as_codecs(columns)
    compute = compute_dtype(codecs)
    present = [*present, "partials"] if variant.measuring else [*present, "ratios"]
    if not isinstance(variant.rule, LayerRule):
        present = present[:-1]
    (update, direction, advance), stores = variant.functions(codecs)
    constexprs: dict[str, Any] = {name: None for name in ON_DEVICE if name not in present}
    constexprs |= {
        "by_value": False,
        "l1": False,
        **switches,
        "update": update,
        "direction": direction,
        "advance": advance,
        "stores": stores,
        "rule_options": variant.options,
        "codecs": codecs,
        "compute": TRITON_DTYPES[compute],
        "exact": launch.needs_exact(codecs),
        "noisy": codecs.noisy,
        "COLUMNS": codecs.count,
        "WIDTH": width(variant),
        "BLOCK": variant.block(codecs, target),
        "SLICE": launch.slice_size(variant.block(codecs, target)),
        "EACH": launch.access_size(codecs),
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


def compute_dtype(columns: Sequence[torch.dtype] | Codecs) -> torch.dtype:
    """Return the dtype of the arithmetic."""
    wide = any(TRITON_DTYPES[torch.float64] in codec.by_element for codec in as_codecs(columns))
    return torch.float64 if wide else torch.float32


def width(variant: Variant) -> int:
    """Return the scalars in a row: the gradient's factor and bound, the L1 threshold, the step, and the rule's own."""
    head: int = HEAD.value
    return head + launch.scalars_of(variant.rule, variant.hyperparameters)


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
