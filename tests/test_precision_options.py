"""What `torch_gd.Precision` stores how, what it refuses, and the bytes that it comes to."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stored_bounds import give_gradients, weights
from torch import Tensor

import torch_gd
from torch_gd import Precision

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def test_what_is_stored_how(device: torch.device) -> None:
    """Small tensors, those that a pattern names and those without groups of 32 keep full precision; groups differ."""
    shapes = {"embed.weight": (4, 32), "a.weight": (4, 32), "a.bias": (32,), "odd": (4, 33), "b": (96,)}
    named = [(name, p) for (name, _), p in zip(shapes.items(), weights(BF16, device, list(shapes.values())))]
    rest = torch.zeros(2048, device=device).requires_grad_()
    optimizer = torch_gd.AdamW(named, precision=Precision("bf16+8", "8bit", min_elements=64, keep=("*embed*",)))
    optimizer.add_param_group({"params": [("rest", rest)], "precision": Precision(None, "bf16", min_elements=1)})
    optimizer.add_param_group(
        {"params": [("none", torch.zeros(64, device=device).requires_grad_())], "precision": None}
    )
    for group in optimizer.param_groups:
        give_gradients(group["params"], 0)
    optimizer.step()
    states = [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]
    found = [{name: str(value.dtype)[6:] for name, value in state.items() if name != "step"} for state in states]
    full = {"remainder": "int16", "exp_avg": "float32", "exp_avg_sq": "float32"}
    names = ("exp_avg_code", "exp_avg_sq_code"), ("exp_avg_scale", "exp_avg_sq_scale")
    small = {"remainder": "int8", **dict.fromkeys(names[0], "int8"), **dict.fromkeys(names[1], "float32")}
    half, whole = ({"exp_avg": dtype, "exp_avg_sq": dtype} for dtype in ("bfloat16", "float32"))
    assert found == [full, small, full, full, small, half, whole]
    assert optimizer.state[named[1][1]]["exp_avg_scale"].shape == (4, 1)
    assert optimizer.state[named[4][1]]["exp_avg_scale"].shape == (3,)
    reasons = " ".join(batch.reason for batch in torch_gd.explain(optimizer).batches)
    for why in (
        "'embed.weight' is among keep",
        "fewer elements than min_elements=64",
        "do not divide into groups of 32",
    ):
        assert why in reasons


REFUSED: dict[str, tuple[type[Exception], str, Callable[[Tensor], Any]]] = {
    "centered": (ValueError, "centered", lambda p: torch_gd.RMSprop([p], centered=True, precision=7.25)),
    "differentiable": (ValueError, "differentiable", lambda p: torch_gd.Adam([p], differentiable=True, precision=14)),
    "no names": (TypeError, "named_parameters", lambda p: torch_gd.AdamW([p], precision=Precision(keep=("a",)))),
    "too few bytes": (ValueError, "the least is 7.25", lambda p: torch_gd.AdamW([p], precision=5)),
    "no such weights": (ValueError, "weights", lambda p: Precision("bf16+4")),
    "no such states": (ValueError, "states", lambda p: Precision(states="4bit")),
    "a string to keep": (TypeError, "keep", lambda p: Precision(keep="embed")),  # type: ignore[arg-type]
    "no number": (TypeError, "min_elements", lambda p: Precision(min_elements=1.5)),  # type: ignore[arg-type]
    "a bool": (TypeError, "precision", lambda p: torch_gd.AdamW([p], precision=True)),
    "other text": (ValueError, "precision", lambda p: torch_gd.AdamW([p], precision="8bit")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_once(name: str) -> None:
    error, words, make = REFUSED[name]
    with pytest.raises(error, match=words):
        make(torch.zeros(64, dtype=BF16).requires_grad_())


def sparse(p: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1, dtype=p.dtype), p.shape)


@pytest.mark.parametrize(
    ("name", "dtype", "precision", "gradient", "words"),
    [
        ("AdamW", FP32, Precision("bf16+16"), torch.ones_like, "is float32.*half precision"),
        ("AdamW", FP16, Precision("bf16+8", "8bit"), torch.ones_like, "is float16.*'stochastic'"),
        ("SGD", BF16, Precision("bf16+16"), sparse, "sparse"),
        ("Adagrad", FP32, Precision(states="bf16"), sparse, "sparse"),
    ],
)
def test_refused_in_a_step_before_anything_has_changed(
    name: str, dtype: torch.dtype, precision: Precision, gradient: Callable[[Tensor], Tensor], words: str, device: Any
) -> None:
    fine, bad = weights(BF16 if precision.weights else FP32, device, [(5000,)])[0], torch.ones(5000, dtype=dtype)
    bad = bad.to(device).requires_grad_()
    before = fine.detach().clone()
    optimizer = getattr(torch_gd, name)([fine, bad], precision=precision)
    fine.grad, bad.grad = torch.ones_like(fine), gradient(bad)
    with pytest.raises(RuntimeError, match=words):
        optimizer.step()
    assert torch.equal(fine, before)
    assert not any("step" in state and state["step"].item() for state in optimizer.state.values())


def test_amsgrad_is_refused_only_where_states_are_rounded() -> None:
    p = torch.zeros(64).requires_grad_()
    with pytest.raises(ValueError, match="maximum of AMSGrad"):
        torch_gd.AdamW([p], amsgrad=True, precision=Precision(states="8bit"))
    torch_gd.AdamW([p], amsgrad=True, precision=Precision(states="float32"))


def kept_and_moved(optimizer: Any, params: list[Tensor]) -> tuple[float, float]:
    """Return the bytes of each element of parameters, states and gradients, and those that a step reads and writes."""
    elements = sum(p.numel() for p in params)
    grads = sum(p.grad.nbytes for p in params if p.grad is not None)
    states = sum(x.nbytes for p in params for name, x in optimizer.state[p].items() if name != "step")
    weights = sum(p.nbytes for p in params)
    return (weights + states + grads) / elements, (2 * (weights + states) + grads) / elements


@pytest.mark.parametrize(
    ("precision", "dtype", "kept"),
    [
        (None, FP32, 16),
        (14, BF16, 14),
        (13.9, BF16, 10),
        (10, BF16, 10),
        (9, BF16, 9),
        (7.25, BF16, 7.25),
        (Precision("stochastic", "8bit"), BF16, 6.25),
        (Precision("stochastic", "bf16"), FP16, 8),
        (Precision(None, "8bit"), FP32, 10.25),
    ],
    ids=str,
)
def test_bytes_of_each_parameter(precision: Any, dtype: torch.dtype, kept: float, device: torch.device) -> None:
    """Counted from the tensors that are there, the gradient included, and `explain` says the same."""
    params = weights(dtype, device, [(64, 64), (4096,)])
    optimizer = torch_gd.AdamW(params, precision=precision)
    for p in params:
        p.grad = torch.ones_like(p)
    before = torch_gd.explain(optimizer).batches
    with torch.no_grad():
        optimizer.step()
    found, moved = kept_and_moved(optimizer, params)
    assert found == kept
    for batches in (before, torch_gd.explain(optimizer).batches):
        assert sum(batch.elements * batch.bytes_an_element for batch in batches) / 8192 == moved
        if precision is not None:
            assert all(f"{kept - dtype.itemsize:g} bytes kept an element" in batch.reason for batch in batches)


def test_small_tensors_and_full_precision_are_counted_too(device: torch.device) -> None:
    params = weights(BF16, device, [(64, 64), (96,)])
    optimizer = torch_gd.AdamW(params, precision=7.25)
    give_gradients(params, 0)
    optimizer.step()
    assert kept_and_moved(optimizer, params[:1])[0] == 7.25
    assert kept_and_moved(optimizer, params[1:])[0] == 14


def test_a_precision_set_in_a_group_is_saved_as_text() -> None:
    """What `torch.load(weights_only=True)` could not read must not get into a checkpoint."""
    p = torch.ones(64, 64, dtype=torch.bfloat16, requires_grad=True)
    optimizer = torch_gd.AdamW([p])
    optimizer.param_groups[0]["precision"] = Precision("bf16+8", "8bit")
    assert optimizer.state_dict()["param_groups"][0]["precision"] == Precision("bf16+8", "8bit").text


def test_a_precision_that_is_taken_away_is_asked_for() -> None:
    p = torch.ones(64, 64, dtype=torch.bfloat16, requires_grad=True)
    p.grad = torch.ones_like(p)
    optimizer = torch_gd.AdamW([p], precision=7.25)
    optimizer.step()
    optimizer.param_groups[0]["precision"] = None
    with pytest.raises(RuntimeError, match="in 8 bits, for which its group's precision is needed"):
        optimizer.step()
    assert optimizer.to_float32_state_dict()["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
