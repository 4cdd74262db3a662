"""Fixtures: the same tests run natively on a GPU and interpreted on a CPU, chosen by what is present."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# Whether @triton.jit interprets is decided when it decorates, so before anything imports Triton.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import pytest
from torch import Tensor

from torch_gd._engine import engine
from torch_gd._engine.plan import Plan
from torch_gd.triton_kernels import runtime
from torch_gd.triton_kernels.runtime import Runtime, use

# With a worker on each core, OpenMP threads that spin for one another take a hundred times as long as one thread alone.
torch.set_num_threads(1)
# The scripts that tests start find the package in a plain checkout, too.
ROOT = str(Path(__file__).parent.parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))


def quicken_the_interpreter() -> None:
    """Have the interpreter replace `triton.language` once a launch, and not anew at each call within the kernel.

    That takes more time than all else. The first call of a module's functions is left as it was, since Triton's own,
    such as `tl.sum`, look into a module of theirs, which no launch replaces; what the first call replaces there stays.
    """
    from triton.runtime.interpreter import InterpretedFunction

    call, seen = InterpretedFunction.__call__, set()

    def call_quickly(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn.__module__ in seen:
            return self.rewrite()(*args, **kwargs)
        seen.add(self.fn.__module__)
        return call(self, *args, **kwargs)

    InterpretedFunction.__call__ = call_quickly


if runtime.HAS_TRITON:
    quicken_the_interpreter()


class WithoutKernels(Runtime):
    """A machine on which our kernels serve no tensor."""

    def serves(self, tensor: Tensor) -> bool:
        return False


@pytest.fixture(params=["triton", "torch"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Return a device for either route: our kernels (on a GPU, or interpreted), and torch's own on the CPU."""
    if request.param == "triton":
        yield kernels_device()
    else:
        with use(WithoutKernels()):
            yield torch.device("cpu")


@pytest.fixture
def triton_device() -> torch.device:
    """Return the device that our kernels run on."""
    return kernels_device()


@pytest.fixture
def torch_path() -> Iterator[None]:
    """Leave every tensor to torch's own implementations."""
    with use(WithoutKernels()):
        yield


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Return a list that receives every plan that is made."""
    made: list[Plan] = []

    def record(*args: Any) -> Plan:
        made.append(Plan(*args))
        return made[-1]

    monkeypatch.setattr(engine, "Plan", record)
    return made


def kernels_device() -> torch.device:
    """Return the device that our kernels run on; skip the test if there is none."""
    if not runtime.HAS_TRITON:
        pytest.skip("Triton is not installed")
    device = torch.device("cpu" if runtime.active.interpreted() else "cuda")
    if not runtime.active.serves(torch.empty(1, device=device)):
        pytest.skip("our kernels do not serve this GPU")
    return device
