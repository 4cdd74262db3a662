"""A plan is used again only if what it depends on has not changed, whether or not torch's own guards are available."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from io import BytesIO
from typing import Any

import pytest
import torch
from catalogue import PLAIN_CASES, Case
from torch import Tensor

import torch_gd
from torch_gd._engine import guard
from torch_gd._engine.counters import HostCounters, join_counters
from torch_gd._engine.guard import Guard
from torch_gd._engine.plan import Plan


class Subclass(Tensor):
    pass


def resize(p: Tensor) -> None:
    p.data = p.data[:1]


def transpose(p: Tensor) -> None:
    p.data = p.data.t()


def widen(p: Tensor) -> None:
    p.data = p.data.double()


def stride(p: Tensor) -> None:
    p.data = torch.zeros(6, 6)[::2, ::2]


CHANGES: list[Callable[[Tensor], None]] = [resize, transpose, widen, stride]


@pytest.fixture(params=["torch's guards", "stand-ins"])
def guards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Use torch's own guards, or do without them, so that every step takes the slow check."""
    if request.param == "stand-ins":
        monkeypatch.setattr(guard, "_TENSOR_GUARDS", None)
    elif guard._TENSOR_GUARDS is None:
        pytest.skip("this torch has no guards that work")
    return str(request.param)


def test_torchs_guards_are_found_in_the_versions_we_know() -> None:
    """Without torch's guards everything works but takes longer, so their absence must not go unnoticed."""
    assert guard._TENSOR_GUARDS is not None


@pytest.mark.parametrize("change", CHANGES)
def test_a_guard_holds_until_something_changes(change: Callable[[Tensor], None]) -> None:
    tensors = [torch.zeros(3, 2), torch.nn.Parameter(torch.zeros(3, 2)), torch.zeros(3, 2)]
    kept = Guard(tensors)
    assert kept.holds(*tensors)
    tensors[2] = torch.ones(3, 2)  # another tensor, but just like it
    assert kept.holds(*tensors)
    change(tensors[1])
    assert not kept.holds(*tensors)


@pytest.mark.parametrize(
    "other",
    [None, torch.zeros(3, 2).as_subclass(Subclass), torch.zeros(3, 2).to_sparse(), torch.zeros(3, 2, device="meta")],
    ids=["None", "subclass", "sparse", "meta"],
)
def test_a_guard_does_not_hold_for_a_tensor_of_another_kind(other: Tensor | None) -> None:
    assert not Guard([torch.zeros(3, 2)]).holds(other)


@pytest.mark.parametrize("joined", [True, False])
def test_counters_are_the_tensors_in_the_states(joined: bool) -> None:
    """Whether they share a buffer or not, the very tensors advance, also those that replace others."""
    states: list[dict[str, Any]] = [{"step": torch.tensor(float(i))} for i in range(4)]
    if joined:
        join_counters(states)
    steps = [state["step"] for state in states]
    counters, some = HostCounters(states), HostCounters([states[3], states[1]])
    counters.advance()
    assert counters.values() == [1.0, 2.0, 3.0, 4.0] == list(map(float, steps))
    some.advance()
    assert some.values() == [5.0, 3.0]
    assert list(map(float, steps)) == [1.0, 3.0, 3.0, 5.0]
    assert counters.find()
    assert some.find()
    states[1]["step"] = torch.tensor(7)  # integers count as well
    states[2]["step"].data = torch.tensor(9.0)
    assert counters.find()
    replaced = states[1]["step"]
    counters.advance()
    assert counters.values() == [2.0, 8.0, 10.0, 6.0] == [float(state["step"]) for state in states]
    assert states[1]["step"] is replaced
    assert float(steps[1]) == 3.0  # no longer a counter
    counters.take_back()
    assert counters.values() == [1.0, 7.0, 9.0, 5.0]
    states[0]["step"] = torch.zeros((), device="meta")
    assert not counters.find()


def test_counters_keep_their_buffer_in_a_checkpoint() -> None:
    """What torch.save and torch.load make of joined counters shares a buffer again, so a resumed run is as fast."""
    states: list[dict[str, Any]] = [{"step": torch.tensor(float(i))} for i in range(3)]
    join_counters(states)
    file = BytesIO()
    torch.save(states, file)
    file.seek(0)
    loaded = torch.load(file)
    assert len({state["step"].untyped_storage().data_ptr() for state in loaded}) == 1
    counters = HostCounters(loaded)
    counters.advance()
    assert counters.values() == [1.0, 2.0, 3.0] == [float(state["step"]) for state in loaded]


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
@pytest.mark.parametrize("context", ["plain", "autocast", "astray", "now and then astray"])
def test_values_are_torchs_when_the_guards_do_not_hold(
    case: Case, context: str, guards: str, device: torch.device, planned: list[Plan]
) -> None:
    """Autocast, and gradients with strides unlike the parameter's ("astray"), cost the slow check but no new plan."""
    torch.manual_seed(0)
    ours = [torch.randn(3, 4, device=device).requires_grad_() for _ in range(3)]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    optimizer, reference = case.ours(ours), case.reference(theirs, foreach=False)
    steps = 6
    for step in range(steps):
        for p, q in zip(ours, theirs):
            q.grad = torch.randn_like(q)
            transposed = context == "astray" or (context == "now and then astray" and step % 2)
            p.grad = q.grad.t().contiguous().t() if transposed else q.grad.clone()
        with torch.autocast(device.type, torch.bfloat16) if context == "autocast" and step % 2 else nullcontext():
            optimizer.step()
        reference.step()
    assert len(planned) <= 2  # the first plan, and one more when the states exist
    # A few roundings a step, of parameters of up to 4.
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=0, atol=steps * 16 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("make", ["negated by autograd", "nothing but zeros"])
@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_gradients_whose_memory_does_not_hold_their_values(case: Case, make: str, device: torch.device) -> None:
    """torch may mark a tensor as negated or zero and leave its memory as it is, but a kernel sees only the memory."""

    def gradient(step: int) -> Tensor:
        plain = torch.full((3,), 0.5 + step, device=device)
        if step < 2:
            return plain
        if make == "nothing but zeros":
            return torch._efficientzerotensor((3,), device=device)
        return torch._neg_view(plain)

    assert gradient(2).is_neg() or torch._is_zerotensor(gradient(2))
    ours = torch.ones(3, device=device).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    optimizer, reference = case.ours([ours]), case.reference([theirs], foreach=False)
    for step in range(5):
        ours.grad, theirs.grad = gradient(step), gradient(step).clone()
        optimizer.step()
        reference.step()
    # A few roundings a step, of values of up to 4.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5 * 16 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("replaced", [0, 1])
@pytest.mark.parametrize("name", ["Adagrad", "Adam", "AdamW"])
def test_a_counter_replaced_among_several_batches(name: str, replaced: int, device: torch.device) -> None:
    """When a batch looks for its counters anew, it must leave those of another batch of the same step alone."""
    steps = {}
    for module in (torch_gd, torch.optim):
        params = [
            torch.ones(3, dtype=dtype, device=device).requires_grad_() for dtype in (torch.float32, torch.float64)
        ]
        optimizer = getattr(module, name)([{"params": [p]} for p in params], lr=0.1)
        for step in range(5):
            for p in params:
                p.grad = torch.ones_like(p)
            if step == 3:
                optimizer.state[params[replaced]]["step"] = torch.tensor(1.0)
            optimizer.step()
        steps[module] = [optimizer.state[p]["step"].item() for p in params]
    assert steps[torch_gd] == steps[torch.optim]


def test_counters_in_shared_memory_stay_there() -> None:
    """Counters that several processes advance together, as in A3C (Mnih et al. 2016), must not be replaced."""
    states: list[dict[str, Any]] = [{"step": torch.zeros(1).share_memory_()} for _ in range(2)]
    shared = [state["step"] for state in states]
    counters = HostCounters(states)
    counters.advance()
    assert counters.find()
    assert counters.values() == [1.0, 1.0] == [float(step) for step in shared]


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_a_step_in_inference_mode_spoils_nothing(case: Case, device: torch.device) -> None:
    """Tensors allocated in inference mode cannot be written to outside it, so states must not be among them."""
    ours = torch.ones(3, device=device).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    optimizer, reference = case.ours([ours]), case.reference([theirs], foreach=False)
    # The first momentum of SGD is torch's to make, on its route.
    in_inference = (2, 4) if case.name in ("SGD", "NAG") else (0, 2, 4)
    for step in range(6):
        ours.grad, theirs.grad = torch.ones(3, device=device), torch.ones(3, device=device)
        if step == 2:
            optimizer.load_state_dict(optimizer.state_dict())
        with torch.inference_mode(step in in_inference):
            optimizer.step()
        reference.step()
        assert not any(state.is_inference() for state in optimizer.state[ours].values())
    # A few roundings a step, of values of up to 4.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=6 * 16 * torch.finfo(torch.float32).eps)


def test_threads_may_share_an_optimizer(device: torch.device) -> None:
    """Steps of several threads at once, as in Hogwild (Recht et al. 2011), all take effect."""
    p = torch.zeros(3, device=device).requires_grad_()
    p.grad = torch.ones(3, device=device)
    optimizer = torch_gd.SGD([p], lr=1.0)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(optimizer.step) for _ in range(40)]:
            done.result()
    assert torch.equal(p, torch.full_like(p, -40.0))
