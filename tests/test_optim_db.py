"""Every option set and every error input that torch tests its own optimizers with, from its `optim_db`."""

from typing import Any

import pytest
import torch

pytest.importorskip("expecttest")
pytest.importorskip("psutil")
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

import torch_gd

NAMES = ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam", "RAdam"]


def entries(function: str) -> list[Any]:
    """Return what a function of each entry in `optim_db` lists, as pytest parameters."""
    return [
        pytest.param(info.optim_cls, entry, id=f"{info.optim_cls.__name__}-{i}")
        for info in optim_db
        if info.optim_cls.__name__ in NAMES
        for i, entry in enumerate(getattr(info, function)(device="cpu", dtype=torch.float32))
    ]


@pytest.mark.parametrize(("theirs", "entry"), entries("optim_inputs_func"))
def test_option_sets(theirs: type[torch.optim.Optimizer], entry: Any, device: torch.device) -> None:
    kwargs = dict(entry.kwargs)
    found = []
    for cls, more in ((getattr(torch_gd, theirs.__name__), {}), (theirs, {"foreach": False})):
        torch.manual_seed(0)
        params = [torch.randn(shape, device=device).requires_grad_() for shape in ((3, 4), (5,), ())]
        optimizer = cls(params, **{**more, **{k: v.clone() if torch.is_tensor(v) else v for k, v in kwargs.items()}})
        for _ in range(4):
            for p in params:
                p.grad = torch.randn_like(p)
            try:
                optimizer.step()
            except AssertionError:  # capturable, which torch refuses on the CPU
                assert kwargs.get("capturable")
                pytest.skip("torch refuses it on the CPU")
        found.append(params)
    for p, q in zip(*found):
        # 4 ulps in each of 4 steps, of values and updates that stay below 8.
        torch.testing.assert_close(p, q, rtol=0, atol=4 * 4 * 8 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize(("theirs", "entry"), entries("optim_error_inputs_func"))
def test_error_inputs(theirs: type[torch.optim.Optimizer], entry: Any) -> None:
    """Errors have torch's type and are raised where torch raises them; a message of our own may name the argument."""
    source = entry.optimizer_error_input
    if issubclass(entry.error_type, Warning):
        with pytest.warns(entry.error_type, match=entry.error_regex):
            getattr(torch_gd, theirs.__name__)(source.params, **source.kwargs)
        return
    if entry.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR:
        with pytest.raises(entry.error_type):
            getattr(torch_gd, theirs.__name__)(source.params, **source.kwargs)
    else:
        optimizer = getattr(torch_gd, theirs.__name__)(source.params, **source.kwargs)
        with pytest.raises(entry.error_type):
            optimizer.step()
