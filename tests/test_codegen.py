"""What the compiler makes of every rule, for GPUs that are not here; compiled in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parent.parent
CUDA = ["sm_80", "sm_90", "sm_100"]


@pytest.fixture(scope="module")
def reports() -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.codegen"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_every_rule_dtype_and_target_is_compiled(reports: list[dict[str, Any]]) -> None:
    assert {row["target"] for row in reports} == {*CUDA, "gfx942"}
    assert {row["dtype"] for row in reports} == {"float32", "float64", "bfloat16", "float16"}
    assert len({row["variant"] for row in reports}) == 12
    assert len(reports) == 4 * 4 * 12


def test_bulk_accesses_are_all_128_bit_and_no_more_than_needed(reports: list[dict[str, Any]]) -> None:
    """Each element of parameter, gradient and state is read once, and all but the gradient written once."""
    for row in reports:
        assert (row["wide_loads"], row["wide_stores"]) == (row["least_loads"], row["least_stores"]), row
        if row["target"] in CUDA:
            assert row["narrow_loads"] <= row["metadata_loads"], row
            assert row["narrow_stores"] == 0, row


def test_no_stack_and_no_spills(reports: list[dict[str, Any]]) -> None:
    for row in reports:
        assert (row["stack"], row["spills"]) == (0, 0), row


def test_every_other_kernel_compiles() -> None:
    """Every switch of the update, every prologue and every reduction, for every GPU."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_every_kernel.py")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 4 * (2 + 3 + 2 * 6 + 4 * (3 + 2) + 1)
