"""Clipping as an interface: what `clip` accepts, policies of a user's own, and the results that an optimizer keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy
import pytest
import torch
from catalogue import PLAIN_CASES, Case
from test_clip_grad import UNWRITABLE, unwritable
from torch import Tensor

import torch_gd
from torch_gd import ClipAdaptive, ClipByGlobalNorm, ClipByValue, ClipPolicy

EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Halve(ClipPolicy):
    """A user's policy: multiply every gradient by a factor."""

    factor: float = 0.5

    def apply(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        for g in grads:
            g.mul_(self.factor)


def pairs(device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Return two equal lists of parameters, one of which is transposed in memory."""
    torch.manual_seed(0)
    values = [torch.randn(3, 4), torch.randn(5).double(), torch.randn(4, 3).t(), torch.randn(())]
    ours, theirs = ([value.clone().to(device).requires_grad_() for value in values] for _ in range(2))
    return ours, theirs


def set_grads(ours: list[Tensor], theirs: list[Tensor], factor: float = 1.0) -> None:
    """Give both the same gradients, contiguous whatever the parameter's layout; theirs multiplied by a factor."""
    for p, q in zip(ours, theirs):
        p.grad = torch.randn(p.shape, dtype=p.dtype, device=p.device)
        q.grad = p.grad * factor


@pytest.mark.parametrize("clip", [1.0, 1, 0.25])
def test_a_number_is_the_largest_global_norm(clip: float, device: torch.device) -> None:
    ours, theirs = pairs(device)
    set_grads(ours, theirs)
    optimizer, reference = torch_gd.SGD(ours, lr=1.0, clip=clip), torch_gd.SGD(theirs, lr=1.0)
    start = [p.detach().clone() for p in ours]
    assert optimizer.clip == ClipByGlobalNorm(float(clip))
    reference.clip = clip
    assert reference.clip == optimizer.clip
    optimizer.step()
    reference.step()
    assert all(map(torch.equal, ours, theirs))
    moved = torch.cat([(p.detach() - before).flatten().double() for p, before in zip(ours, start)]).norm()
    # The gradients' norm is above 1, and so clipped; float32 rounds each of 30 elements, of 4 at most, by half an ulp.
    torch.testing.assert_close(moved.item(), float(clip), rtol=0, atol=30 * 4 * EPS)


@pytest.mark.parametrize("wrong", ["1.0", True, ClipByGlobalNorm, [1.0], {"max_norm": 1.0}, torch.ones(()), abs])
@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_anything_else_is_refused(case: Case, wrong: Any) -> None:
    p = torch.zeros(2, requires_grad=True)
    with pytest.raises(TypeError, match=r"Invalid clip: .*; it must be a number .*, None, or an instance of a policy"):
        case.ours([p], clip=wrong)
    optimizer: Any = case.ours([p])
    with pytest.raises(TypeError, match="Invalid clip"):
        optimizer.clip = wrong
    assert optimizer.clip is None


@pytest.mark.parametrize("number", [0, -1.0, float("nan")])
def test_a_number_that_is_no_norm_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="Invalid max_norm"):
        torch_gd.SGD([torch.zeros(2, requires_grad=True)], clip=number)


INF, NAN = float("inf"), float("nan")
ARGUMENTS: list[tuple[type[ClipPolicy], str, list[Any]]] = [  # a policy, an argument, and values out of its range
    (ClipByGlobalNorm, "max_norm", [0, -1, NAN]),
    (ClipByGlobalNorm, "norm_type", [0, -1, NAN]),
    (ClipByValue, "clip_value", [-1, NAN]),
    (ClipAdaptive, "clipping", [-1, NAN, INF]),  # 0 · inf is NaN
    (ClipAdaptive, "eps", [-1, NAN, INF]),
]
NO_NUMBERS: list[Any] = ["1", None, True, [1.0], 1j, Decimal("0.1"), abs, ClipByValue, torch.ones(2), torch.tensor(1j)]


@pytest.mark.parametrize(("policy", "name", "out_of_range"), ARGUMENTS, ids=str)
def test_a_policys_wrong_argument_is_named(policy: Any, name: str, out_of_range: list[Any]) -> None:
    others = {"max_norm": 1.0} if name == "norm_type" else {}
    for kind, values in ((TypeError, NO_NUMBERS), (ValueError, out_of_range)):
        for value in values:
            with pytest.raises(kind, match=f"Invalid {name}: .*; it must be"):
                policy(**others, **{name: value})


def test_a_policys_numbers_are_plain_floats() -> None:
    """So that a state_dict which holds one can be loaded with `weights_only=True`."""
    for value in (2, numpy.float32(2), numpy.array(2.0), torch.tensor(2.0), torch.tensor([2.0])):
        policies = ClipByGlobalNorm(value, value), ClipByValue(value), ClipAdaptive(value, value)
        assert policies == (ClipByGlobalNorm(2.0, 2.0), ClipByValue(2.0), ClipAdaptive(2.0, 2.0))
        assert {type(number) for policy in policies[1:] for number in vars(policy).values()} == {float}
    with pytest.raises(TypeError, match="Invalid skip_nonfinite: 'no'; it must be True or False"):
        ClipByGlobalNorm(1.0, skip_nonfinite="no")  # type: ignore[arg-type]


def test_a_policy_in_a_group_is_refused() -> None:
    """It would otherwise be ignored in silence."""
    group = {"params": [torch.zeros(2, requires_grad=True)], "clip": ClipByValue(1.0)}
    with pytest.raises(TypeError, match="a policy belongs to the optimizer"):
        torch_gd.SGD([group])
    optimizer = torch_gd.SGD([torch.zeros(2, requires_grad=True)])
    with pytest.raises(TypeError, match="a policy belongs to the optimizer"):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("case", PLAIN_CASES, ids=str)
def test_a_policy_of_ones_own_acts_on_every_route(case: Case, device: torch.device) -> None:
    ours, theirs = pairs(device)
    optimizer, reference = case.ours(ours, clip=Halve(0.5)), case.ours(theirs)
    for _ in range(3):
        set_grads(ours, theirs, factor=0.5)
        optimizer.step()
        reference.step()
    assert all(map(torch.equal, ours, theirs))


def test_a_policy_of_ones_own_is_called_once_a_step_with_everything(device: torch.device) -> None:
    """So that it can look at all gradients together, after a GradScaler's scale has been divided out."""
    calls: list[tuple[list[Tensor], list[float]]] = []

    class Record(ClipPolicy):
        def apply(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
            calls.append((list(params), [float(g.flatten()[0]) for g in grads]))

    ours, _ = pairs(device)
    for p in ours:
        p.grad = torch.full_like(p, 6.0)
    optimizer: Any = torch_gd.AdamW([{"params": ours[:2]}, {"params": ours[2:], "lr": 0.1}], clip=Record())
    optimizer.grad_scale, optimizer.found_inf = torch.tensor([2.0], device=device), torch.tensor([0.0], device=device)
    optimizer.step()
    assert len(calls) == 1
    assert set(map(id, calls[0][0])) == set(map(id, ours))
    assert calls[0][1] == [3.0] * 4


def test_a_policy_without_apply_says_so(device: torch.device) -> None:
    class Forgotten(ClipPolicy):
        pass

    p = torch.zeros(2, device=device).requires_grad_()
    p.grad = torch.ones_like(p)
    with pytest.raises(NotImplementedError, match=r"Forgotten must define apply\(params, grads\)"):
        torch_gd.SGD([p], clip=Forgotten()).step()
    assert torch.equal(p, torch.zeros_like(p))


@pytest.mark.parametrize(
    "policy", [Halve(0.25), ClipByGlobalNorm(2.0, skip_nonfinite=True), ClipByValue(1.0), ClipAdaptive()]
)
def test_a_policy_travels_in_the_state_dict(policy: ClipPolicy) -> None:
    optimizer = torch_gd.SGD([torch.zeros(2, requires_grad=True)], clip=policy)
    other = torch_gd.SGD([torch.zeros(2, requires_grad=True)])
    other.load_state_dict(optimizer.state_dict())
    assert other.clip == policy


WRONG_POLICIES: list[Any] = [
    5,
    {"name": "ClipByValue"},
    "ClipByValue",
    "5",
    '{"name": ["ClipByValue"]}',
    '{"name": "Unheard"}',
    '{"max_norm": 1.0}',
    '{"name": "ClipByValue", "bound": 1.0}',
    '{"name": "ClipByValue", "clip_value": -1}',
]


@pytest.mark.parametrize("clip", WRONG_POLICIES, ids=str)
def test_a_wrong_policy_in_a_state_dict_changes_nothing(clip: Any) -> None:
    p = torch.zeros(2, requires_grad=True)
    optimizer = torch_gd.SGD([p], lr=0.5, momentum=0.9, clip=ClipByValue(2.0))
    state = torch_gd.SGD([p], lr=0.1).state_dict()
    state["param_groups"][0]["clip_policy"] = clip
    with pytest.raises((TypeError, ValueError), match=r"clip policy|clip_value"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.clip == ClipByValue(2.0)


@pytest.mark.parametrize("clip", [ClipByGlobalNorm(1.0), ClipByGlobalNorm(1.0, skip_nonfinite=True)], ids=str)
def test_results_stay_what_they_were(clip: ClipPolicy, device: torch.device) -> None:
    """A list of logged norms must not turn into copies of the last one."""
    p = torch.zeros(4, device=device).requires_grad_()
    optimizer = torch_gd.SGD([p], lr=0.1, clip=clip)
    norms, coefficients = [], []
    for size in (1.0, 10.0, 100.0):
        p.grad = torch.full_like(p, size)
        optimizer.step()
        norms.append(optimizer.last_norm)
        coefficients.append(optimizer.last_coefficient)
    # Norms 2, 20 and 200; the coefficient is 1 / (norm + 1e-6), rounded to float32.
    assert [float(norm) for norm in norms if norm is not None] == [2.0, 20.0, 200.0]
    found = torch.tensor([float(c) for c in coefficients if c is not None], dtype=torch.float64)
    torch.testing.assert_close(found, 1 / (torch.tensor([2.0, 20.0, 200.0]).double() + 1e-6), rtol=2 * EPS, atol=0)


@pytest.mark.parametrize("clip", [None, ClipByValue(1.0)], ids=str)
def test_results_of_an_earlier_policy_are_not_shown(clip: ClipPolicy | None, device: torch.device) -> None:
    p = torch.zeros(4, device=device).requires_grad_()
    p.grad = torch.ones_like(p)
    optimizer = torch_gd.SGD([p], clip=1.0)
    optimizer.step()
    optimizer.clip = clip
    optimizer.step()
    assert optimizer.last_norm is None
    assert optimizer.last_coefficient is None


def test_reprs_show_policy_and_l1() -> None:
    p = torch.zeros(2, requires_grad=True)
    text = repr(torch_gd.AdamW([p], clip=ClipByValue(0.5), l1=0.25))
    assert "clip: ClipByValue(clip_value=0.5)" in text
    assert "l1: 0.25" in text
    assert "clip" not in repr(torch_gd.AdamW([p]))


def test_a_subclass_of_a_built_in_policy_may_have_its_own_apply(device: torch.device) -> None:
    """Its pass over the gradients takes the place of what the kernel would have done."""

    class Nothing(ClipByValue):
        def apply(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
            for g in grads:
                g.zero_()

    ours, start = pairs(device)
    set_grads(ours, start)
    torch_gd.SGD(ours, lr=1.0, clip=Nothing(1.0)).step()
    assert all(map(torch.equal, ours, start))


def test_a_policy_sees_the_parameters_own_gradients(device: torch.device) -> None:
    """Also where a batch works on a copy in another layout."""

    class Erase(ClipPolicy):
        def apply(self, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
            for p in params:
                assert p.grad is not None
                p.grad.zero_()

    ours, start = pairs(device)
    set_grads(ours, start)
    for p in ours:
        assert p.grad is not None
        p.grad = p.grad.t().contiguous().t() if p.dim() == 2 else p.grad
    torch_gd.SGD(ours, lr=1.0, clip=Erase()).step()
    assert all(map(torch.equal, ours, start))


def test_a_policy_that_is_no_dataclass_of_plain_values_is_not_saved() -> None:
    @dataclass(frozen=True)
    class HoldsATensor(ClipPolicy):
        scale: Tensor

    class Counts(ClipPolicy):
        def __init__(self) -> None:
            self.calls = 0

    optimizer = torch_gd.SGD([torch.zeros(2, requires_grad=True)], clip=Counts())
    assert "clip_policy" not in optimizer.state_dict()["param_groups"][0]
    optimizer.load_state_dict(optimizer.state_dict())
    assert isinstance(optimizer.clip, Counts)
    optimizer.clip = ClipByValue(1.0)
    optimizer.clip = HoldsATensor(torch.ones(1))
    assert "clip_policy" not in optimizer.state_dict()["param_groups"][0]


@pytest.mark.parametrize("clip", [ClipByValue(1.0), ClipByGlobalNorm(1.0), Halve()], ids=str)
def test_a_gradient_that_cannot_be_clipped_leaves_everything_as_it_was(clip: ClipPolicy, torch_path: None) -> None:
    """Sparse gradients cannot be clamped, and other tensors must not have moved when that shows."""
    dense, sparse = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    dense.grad, sparse.grad = torch.ones(3), torch.ones(3).to_sparse()
    optimizer = torch_gd.SGD([dense, sparse], lr=1.0, clip=clip)
    try:
        optimizer.step()
    except (NotImplementedError, RuntimeError):
        assert torch.equal(dense, torch.ones(3))
    else:
        assert torch.all(dense < 1)


@pytest.mark.parametrize("policy", [ClipByValue(1.0), ClipAdaptive()], ids=str)
@pytest.mark.parametrize("kind", UNWRITABLE)
def test_apply_changes_nothing_if_it_cannot_change_everything(kind: str, policy: ClipPolicy) -> None:
    grads = [torch.full((3,), 5.0), unwritable(kind), torch.full((2,), 5.0).double()]
    with pytest.raises(RuntimeError, match="gradient 1, of shape"):
        policy.apply([torch.ones(g.shape) for g in grads], grads)
    assert (grads[0] == 5).all()
    assert (grads[2] == 5).all()


def test_adaptive_clipping_names_a_gradient_that_does_not_fit_its_parameter() -> None:
    grads = [torch.full((3,), 5.0), torch.full((2,), 5.0)]
    for wrong in (torch.ones(3), torch.ones(2, device="meta")):
        with pytest.raises(RuntimeError, match=r"gradient 1, of shape \(2,\) on cpu, does not fit the parameter"):
            ClipAdaptive().apply([torch.ones(3), wrong], grads)
    assert (grads[0] == 5).all()


def test_a_gradient_that_autograd_sees_is_named() -> None:
    """With `differentiable=True` a policy runs under autograd, which lets no leaf that requires a gradient change."""
    grads = [torch.full((3,), 5.0), torch.full((3,), 5.0, requires_grad=True)]
    with pytest.raises(RuntimeError, match=r"a leaf Variable that requires grad .*: gradient 1, "):
        ClipByValue(1.0).apply(grads, grads)
    assert (grads[0] == 5).all()


def test_the_norm_is_of_the_device_that_measured_last() -> None:
    p = torch.zeros(2, requires_grad=True)
    p.grad = torch.ones(2)
    optimizer = torch_gd.SGD([p], clip=1.0)
    with torch.inference_mode():
        optimizer.step()
    optimizer._engine.results[torch.device("meta")] = torch.zeros(4, device="meta")
    optimizer.step()
    assert optimizer.last_norm is not None
    assert optimizer.last_norm.device == torch.device("cpu")


@pytest.mark.parametrize("policy", [ClipByValue(1.0), ClipAdaptive(), ClipByGlobalNorm(1.0), Halve()], ids=str)
@pytest.mark.parametrize("kind", ["inference", "expanded", "zero tensor"])
def test_a_step_clips_all_gradients_or_none(kind: str, policy: ClipPolicy, torch_path: None) -> None:
    """Whichever batch the one gradient is in that cannot be written: a second try must not clip the others again."""
    first, second, third = (torch.ones(3, dtype=dtype).requires_grad_() for dtype in (torch.double, *[torch.float] * 2))
    optimizer = torch_gd.SGD([{"params": [first]}, {"params": [second, third]}], clip=policy, foreach=True)
    first.grad, second.grad, third.grad = torch.full_like(first, 5.0), torch.full_like(second, 5.0), unwritable(kind)
    with pytest.raises(
        RuntimeError, match=rf"^{UNWRITABLE[kind]}.*: SGD: the gradient of parameter 1 of group 1, of shape \(3,\)"
    ):
        optimizer.step()
    for p in (first, second):
        assert p.grad is not None
        assert torch.equal(p.grad, torch.full_like(p, 5.0))
        assert torch.equal(p, torch.ones_like(p))
