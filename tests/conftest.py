"""The same tests run natively on a GPU and interpreted on a CPU, chosen by what is present."""

import os
from pathlib import Path

import torch

# Whether @triton.jit interprets is decided when it decorates: before anything imports Triton.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import pytest

from torch_gd._engine import backend

# With a worker a core, OpenMP threads that spin for one another take a hundred times as long as one alone.
torch.set_num_threads(1)
# The scripts that tests start find the package in a plain checkout, too.
ROOT = str(Path(__file__).parent.parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))


@pytest.fixture(params=["triton", "torch"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device for either path: our kernels (GPU, or the CPU if interpreted), and torch's own on the CPU."""
    if request.param == "torch":
        monkeypatch.setattr(backend, "serves", lambda tensor: False)
        return torch.device("cpu")
    return kernels_device()


@pytest.fixture
def triton_device() -> torch.device:
    return kernels_device()


@pytest.fixture
def torch_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "serves", lambda tensor: False)


def kernels_device() -> torch.device:
    if backend.launch is None:
        pytest.skip("Triton is not installed")
    device = torch.device("cpu" if backend.interpreted() else "cuda")
    if not backend.serves(torch.empty(1, device=device)):
        pytest.skip("our kernels do not serve this GPU")
    return device
