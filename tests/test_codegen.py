"""Tests of the code that the kernels compile to, for GPUs that need not be here.

It is compiled in a process of its own, since kernels are interpreted in this one.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")
pytest.importorskip("tqdm")  # which the benchmarks import

ROOT = Path(__file__).parent.parent
CUDA = ["sm_80", "sm_90", "sm_100"]
DIVIDING = ("lamb", "ada", "nadam", "radam", "rmsprop", "scaled", "clipped", "with")
VARIANTS = 22  # rules, with the options that change their code


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Return what is counted in every kernel."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    script = Path(__file__).with_name("compile_every_kernel.py")
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def rules(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the rules, with the counts that `python -m benchmarks codegen` writes."""
    return [row for row in rows if row["kind"] == "rule"]


@pytest.fixture(scope="module")
def updates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the update under mixes of dtypes and switches."""
    return [row for row in rows if row["kind"] == "update"]


@pytest.fixture(scope="module")
def kernels(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the prologues and of the reductions."""
    return [row for row in rows if row["kind"] == "kernel"]


@pytest.fixture(scope="module")
def stored(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of AdamW whose weights and states are stored by codecs."""
    return [row for row in rows if row["kind"] == "stored"]


def test_everything_is_compiled(
    rules: list[dict[str, Any]], updates: list[dict[str, Any]], kernels: list[dict[str, Any]]
) -> None:
    found = Counter((row["dtype"], row["target"]) for row in rules)
    assert found == {
        **{("float32", target): VARIANTS for target in (*CUDA, "gfx942")},
        **{("bfloat16", target): VARIANTS for target in ("sm_100", "gfx942")},
    }
    assert len({row["variant"] for row in rules}) == VARIANTS
    assert len({(row["name"], *row["sizes"]) for row in updates if row["name"] == "momentum"}) == 3**3
    assert {row["target"] for row in updates} == {row["target"] for row in kernels} == {*CUDA, "gfx942"}
    prologues, reductions = 2 * (2 * 7 + 1 + 2 + 2), 2 * (4 * (3 + 1 + 2) + 1) + 2 * (3 + 1 + 2 + 1)
    assert len(kernels) == prologues + reductions + 2 * 3


def test_bulk_accesses_are_all_128_bit_and_no_more_than_needed(rules: list[dict[str, Any]]) -> None:
    """Check that parameter, gradient and states are read once, and all but the gradient written once.

    Of a layer-wise rule each pass reads what it needs.
    """
    for row in rules:
        assert (row["bytes"], row["wide_share"]) == (row["least_bytes"], 1.0), row


def test_codecs_read_and_write_each_element_once(stored: list[dict[str, Any]]) -> None:
    assert len(stored) == 7
    for row in stored:
        assert row["bytes"] == row["least_bytes"], row


def test_groups_find_their_largest_without_barriers(stored: list[dict[str, Any]]) -> None:
    """Threads of a group shuffle. Only Triton 3.6 lets those of a program wait for one another, in the 8-bit modes."""
    waiting = {"bar.sync", "ld.shared", "st.shared", "s_barrier"}
    for row in stored:
        found = set(row["exchanges"])
        if not row["dtype"].endswith("8bit"):
            assert not found, row
        elif not triton.__version__.startswith("3.6."):
            assert found, row
            assert not found & waiting, row


def test_eight_bits_are_bound_by_instructions_on_a_b200_alone(stored: list[dict[str, Any]]) -> None:
    """Elsewhere memory is predicted to bind. Integers take half a B200's rate, and bytes are few."""
    for row in stored:
        if row["target"] == "sm_100":
            assert row["limit"] == "issue", row
            assert row["predicted"] > 0.7, row
        else:
            assert row["predicted"] >= 0.99, row


def test_mixed_dtypes_are_accessed_as_wide_as_the_widest_allows(updates: list[dict[str, Any]]) -> None:
    """Check that of each column as many elements are taken at once as 16 bytes hold of the widest, and each once."""
    others = {"clipped by unit": 8, "clipped by value": 2, "with l1": 1}  # coefficients, bound and factor, threshold
    others |= {"lamb measure": 2, "lars measure": 2}  # sums
    for row in updates:
        each = 16 // max(row["sizes"])
        times = row["elements"] // each
        expected = Counter(size * each for size in row["accessed"] for _ in range(times))
        more = Counter(row["accesses"])
        more.subtract(expected)
        assert min(more.values()) >= 0, row
        doubles = row["name"] == "clipped by unit" or row["name"].endswith("measure") or 8 in row["sizes"]
        scalar = 8 if doubles else 4
        found = sum(size * count for size, count in more.items())
        assert found in (scalar * others.get(row["name"], 0), 0 if row["target"] == "gfx942" else found), row


def test_threads_of_an_update_exchange_nothing(rules: list[dict[str, Any]], updates: list[dict[str, Any]]) -> None:
    """Check that there is no barrier, no shared memory and no shuffle, except where sums are to be made."""
    for row in (*rules, *updates):
        assert (row["exchanges"] == []) != row.get("variant", row.get("name")).endswith("measure"), row


def test_chunks_are_reduced_by_128_bit_loads(kernels: list[dict[str, Any]]) -> None:
    """Check the loads of the loop over a whole chunk, after which one lane stores a double."""
    found = [row for row in kernels if "accesses" in row]
    assert len(found) == 2 * 3 * 3 + 2 * 3
    for row in found:
        accesses = Counter(row["accesses"])
        assert accesses.pop(8, 0) <= 1, row
        assert set(accesses) == {16}, row


def test_other_kernels_load_nothing_twice(kernels: list[dict[str, Any]]) -> None:
    """Count the loads of a thread."""
    raw = {"sgd": 6, "momentum": 8, "adagrad": 8, "rmsprop": 9, "adam": 9, "adamw": 9, "radam": 9}  # values in a row
    raw |= {"lamb apply": 17, "lars apply": 13}
    expected = {f"prologue of {rule} alone": width for rule, width in raw.items()}
    # Each value but the step may stand at an address. A row's number, the counter and its address, and `found_inf`.
    expected |= {f"prologue of {rule}": 3 * (width - 1) + 4 for rule, width in raw.items()}
    expected["prologue of nadam"] = 3 * (10 - 1) + 4 + 2  # and its product with its address
    for order in ("1.0", "2.0", "inf", "3.0"):
        expected[f"tensor norm {order}"] = 1 + 2  # a partial sum; where they begin and end
        # 4,096 partial sums over 128 threads; settings, scale, `found_inf` and steps skipped so far.
        expected |= {f"coefficient {order} {compute}": 32 + 4 for compute in ("fp32", "fp64")}
    # Two of the map, size and address; a thread's 16 elements of 2,048, by 16 bytes where aligned, and one by one.
    expected |= {f"partial 3.0 {dtype}": 4 + wide + 16 for dtype, wide in (("fp32", 4), ("bf16", 2), ("fp64", 8))}
    # Where a tensor's sums begin and end, and 4,096 of each kind over 128 threads; the row, and what trust reads of it.
    expected |= {"sums of layers": 2 + 2 * 32, "ratios lamb apply": 2 + 2 * 32 + 1 + 5}
    expected |= {"ratios lars apply": 2 + 2 * 32 + 1 + 7}
    # 1,024 elements of parameter and gradient; two of the map, a size, two addresses, two settings, scale.
    expected["unit"] = 2 * 8 + 8
    for row in kernels:
        if row["target"] in CUDA and "loads" in row:
            assert row["loads"] == expected[row["name"]], row


def test_divisions_and_square_roots_are_correctly_rounded(rows: list[dict[str, Any]]) -> None:
    """Check that only half precision uses approximations, whose accuracy `test_arithmetic.py` tests."""
    for row in rows:
        if row["kind"] == "stored":  # whose codes round by more
            assert not row["approximate"] or row["dtype"] != "bf16+16, float32", row
            continue
        half = row.get("dtype") in ("bfloat16", "float16") or set(row.get("sizes", [4])) == {2}
        divides = row.get("variant", row.get("name")).startswith(DIVIDING)
        approximate = half and divides and row["target"] in CUDA
        expected = {"div.full.f32", "sqrt.approx.ftz.f32"} if approximate else set()
        if row.get("variant", row.get("name")) == "adamax":  # which takes no root
            expected.discard("sqrt.approx.ftz.f32")
        assert set(row["approximate"]) == expected, row


def test_no_stack_and_no_spills(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        # Norms of other orders than 1 and 2 use logarithms and may spill: two registers do, on sm_80 under Triton 3.6.
        if not row.get("name", "").startswith("partial 3.0"):
            assert (row["stack"], row.get("spills", 0)) == (0, 0), row


def test_enough_is_in_flight(rules: list[dict[str, Any]]) -> None:
    """Require about twice what Little's law does on an H100: 3.0 TB/s · 1 µs / 132 multiprocessors = 23 KB."""
    for row in rules:
        assert row["in_flight"] >= 40_000, row


def test_instructions_leave_room_at_full_bandwidth(rules: list[dict[str, Any]]) -> None:
    for row in rules:
        # Sums of squares are six instructions more.
        assert row["issue_share"] < (0.65 if row["variant"].endswith("measure") else 0.6), row
        everything = (row["instructions"] + row["head_instructions"]) / row["instructions"] * row["issue_share"]
        assert everything < 0.9, row


def test_memory_bandwidth_is_predicted_to_be_the_limit(rules: list[dict[str, Any]]) -> None:
    for row in rules:
        assert row["predicted"] >= 0.99, row
