"""Check an installed torch_gd, with nothing but what it depends on: `python -I tests/smoke.py`.

Started so, Python finds no checkout: -I leaves out the script's folder and PYTHONPATH.
"""

import importlib
import importlib.metadata
import importlib.util
from pathlib import Path

import torch

import torch_gd

KERNELS = ("launch", "measure", "multi_tensor", "reductions", "rule", "rules", "table")


def check_files() -> None:
    assert torch_gd.__version__ == importlib.metadata.version("torch_gd")
    assert Path(torch_gd.__file__).with_name("py.typed").is_file()
    for name in KERNELS:
        assert importlib.util.find_spec(f"torch_gd.triton_kernels.{name}") is not None, f"{name}.py is missing"
    if importlib.util.find_spec("triton") is not None:
        for name in KERNELS:
            importlib.import_module(f"torch_gd.triton_kernels.{name}")


def check_steps() -> None:
    """Ten steps of AdamW with a schedule equal torch's, and go on from a checkpoint."""
    results = []
    for module in (torch.optim, torch_gd):
        p = torch.ones(3, requires_grad=True)
        optimizer = module.AdamW([p], lr=0.1)
        for _ in range(2):
            scheduler = module.lr_scheduler.LinearLR(optimizer)
            for _ in range(5):
                p.grad = p.detach().clone()
                optimizer.step()
                scheduler.step()
            state = optimizer.state_dict()
            optimizer = module.AdamW([p], lr=0.1)
            optimizer.load_state_dict(state)
        results.append(p.detach())
    torch.testing.assert_close(*results)


if __name__ == "__main__":
    check_files()
    check_steps()
    print(f"torch_gd {torch_gd.__version__} works, with torch {torch.__version__}: {Path(torch_gd.__file__).parent}")
