"""Launches through Triton's own launcher without a GPU: all is real up to the driver, which runs no kernel."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="the other tests launch for real"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="Triton compiles its launcher with gcc"),
]
UPDATE = ("update_kernel",)
WITH_PROLOGUE = ("scalars_kernel", *UPDATE)
NORM = ("partial_kernel", "coefficient_kernel")
ADAPTIVE = ("unit_kernel", *UPDATE)
EXPECTED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ["sgd", "momentum", "nag", "adagrad", "rmsprop", "adam", "adamw", "nadam", "l1", "by value"], UPDATE
    ),
    **dict.fromkeys(["capturable", "products", "tensor lr", "scaler"], WITH_PROLOGUE),
    **dict.fromkeys(["by norm", "by norm 3", "by norm inf"], (*NORM, *UPDATE)),
    "by norm, skipping": (*NORM, *WITH_PROLOGUE),
    **dict.fromkeys(["adaptive", "adaptive, scaler"], ADAPTIVE),
}
STEPS = 4  # as in the script


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    folder = tmp_path_factory.mktemp("cuda")
    include = Path(triton.__file__).parent / "backends/nvidia/include"
    compile = ["gcc", "-shared", "-fPIC", f"-I{include}", "-o", str(folder / "libcuda.so.1"), str(HERE / "fake_cuda.c")]
    subprocess.run(compile, check=True)
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")])),
        "TRITON_LIBCUDA_PATH": str(folder),
        "TRITON_CACHE_DIR": str(folder / "cache"),  # launchers linked with the fake driver must not be found later
    }
    script = HERE / "launch_on_fake_cuda.py"
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_every_kernel_is_launched_with_what_it_was_given(launches: list[list[str]]) -> None:
    """Each case makes exactly the launches it should; the script itself has compared their parameters."""
    made = {case: tuple(kernel for _, kernel, _ in group) for case, group in groupby(launches, itemgetter(0))}
    assert made.pop("norms") == ("partial_kernel", "tensor_norm_kernel")
    assert made == {case: kernels * STEPS for case, kernels in EXPECTED.items()}


def test_all_but_the_first_launches_skip_the_launcher(launches: list[list[str]]) -> None:
    """Only a plan's first launch goes through the launcher; a case has two plans if its first step makes states."""
    ordinary = Counter((case, kernel) for case, kernel, by in launches if by == "launcher" and case != "norms")
    assert set(ordinary) == {(case, kernel) for case, kernels in EXPECTED.items() for kernel in kernels}
    assert all(count <= 2 for count in ordinary.values())
