"""Tests of the code that every rule compiles to, for GPUs that need not be here.

It is compiled in a process of its own, since kernels are interpreted in this one.
"""

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
    """Return the rows of `python -m benchmarks codegen`."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "codegen", "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_every_rule_dtype_and_target_is_compiled(reports: list[dict[str, Any]]) -> None:
    assert {row["target"] for row in reports} == {*CUDA, "gfx942"}
    assert {row["dtype"] for row in reports} == {"float32", "float64", "bfloat16", "float16"}
    assert len({row["variant"] for row in reports}) == 12
    assert len(reports) == 4 * 4 * 12


def test_bulk_accesses_are_all_128_bit_and_no_more_than_needed(reports: list[dict[str, Any]]) -> None:
    """Check that parameter, gradient and states are read once, and all but the gradient written once."""
    for row in reports:
        assert (row["bytes"], row["wide_share"]) == (row["least_bytes"], 1.0), row


def test_divisions_and_square_roots_are_correctly_rounded(reports: list[dict[str, Any]]) -> None:
    """Check that only half precision uses approximations, whose accuracy `test_arithmetic.py` tests."""
    for row in reports:
        divides = row["variant"].startswith(("ada", "rmsprop"))
        half = row["dtype"] in ("bfloat16", "float16") and row["target"] in CUDA
        expected = {"div.full.f32", "sqrt.approx.ftz.f32"} if divides and half else set()
        assert set(row["approximate"]) == expected, row


def test_no_stack_and_no_spills(reports: list[dict[str, Any]]) -> None:
    for row in reports:
        assert (row["stack"], row["spills"]) == (0, 0), row


def test_every_other_kernel_compiles() -> None:
    """Compile every switch of the update, every prologue and every reduction, without stack or spills."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_every_kernel.py")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 4 * (2 * (2 + 3) + 2 * 6 + 4 * (3 + 2) + 1)
    # Norms of other orders than 1 and 2 use logarithms and may spill: two registers do, on sm_80 under Triton 3.6.
    assert [line for line in lines if not line.startswith("0 0 ") and "partial p" not in line] == []


def test_enough_is_in_flight(reports: list[dict[str, Any]]) -> None:
    """Require about twice what Little's law does on an H100: 3.0 TB/s · 1 µs / 132 multiprocessors = 23 KB."""
    for row in reports:
        assert row["in_flight"] >= 40_000, row


def test_instructions_leave_room_at_full_bandwidth(reports: list[dict[str, Any]]) -> None:
    for row in reports:
        if row["dtype"] in ("float32", "bfloat16"):
            assert row["issue_share"] < 0.6, row
            everything = (row["instructions"] + row["head_instructions"]) / row["instructions"] * row["issue_share"]
            assert everything < 0.9, row


def test_memory_bandwidth_is_predicted_to_be_the_limit(reports: list[dict[str, Any]]) -> None:
    for row in reports:
        if row["dtype"] in ("float32", "bfloat16"):
            assert row["predicted"] >= 0.99, row
