"""Gradients that are released during backward: the values of ordinary training, in less memory, and what is refused."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from catalogue import Case
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import torch_gd
from torch_gd._engine.plan import Plan
from torch_gd.clipping import ClipAdaptive, ClipByGlobalNorm, ClipByValue, ClipPolicy

WIDTH, LAYERS = 16, 4
BUCKET = 9 * WIDTH * WIDTH  # bytes: two layers and a little, so that three make a bucket, and one is left


class Net(nn.Module):
    """Equal layers, of which the last is used twice; one can be left out, and one is never used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.unused = nn.Linear(2, 2)
        self.skip: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        for i in (*range(LAYERS), LAYERS - 1):
            if i != self.skip:
                x = torch.tanh(self.layers[i](x))
        return x


def new(case: Case, device: torch.device, **more: Any) -> tuple[Net, torch_gd.FusedOptimizer]:
    """Return a model and its optimizer, with two groups that cross the buckets."""
    model = Net().to(device)
    params = list(model.parameters())
    optimizer = case.ours([{"params": params[:3]}, {"params": params[3:], "weight_decay": 0.1}], **more)
    assert isinstance(optimizer, torch_gd.FusedOptimizer)
    return model, optimizer


def new_adamw(**more: Any) -> tuple[Net, torch_gd.FusedOptimizer]:
    return new(Case("AdamW"), torch.device("cpu"), **more)


def loss_of(model: nn.Module, step: int) -> Tensor:
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(step))
    loss: Tensor = (model(x.to(next(model.parameters()).device)) - 1).square().mean()
    return loss


def train(model: Net, optimizer: torch_gd.FusedOptimizer, steps: range, skipping: bool = False) -> None:
    """Train under a schedule; if `skipping`, each step leaves another layer out."""
    scheduler = torch_gd.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for step in steps:
        model.skip = step % LAYERS if skipping else None
        loss_of(model, step).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


def assert_same(one: tuple[nn.Module, Any], other: tuple[nn.Module, Any]) -> None:
    """All parameters and states are the same, to the bit."""
    for p, q in zip(one[0].parameters(), other[0].parameters()):
        assert torch.equal(p, q)
        state, expected = one[1].state[p], other[1].state[q]
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)


# On torch's routes those that have a fused kernel, and one that would choose between for-loop and foreach.
PARITY = [
    Case("SGD"),
    Case("SGD", {"momentum": 0.9}),
    Case("AdamW", {"amsgrad": True}),
    Case("Adagrad"),
    Case("RMSprop", {"centered": True}),
    Case("NAdam", {"foreach": True}),
    Case("LAMB"),
]


@pytest.mark.parametrize("case", PARITY, ids=str)
def test_values_are_those_of_ordinary_training(case: Case, torch_path: None) -> None:
    cpu = torch.device("cpu")
    released, ordinary = new(case, cpu), new(case, cpu)
    torch_gd.release_gradients(*released, bucket_bytes=BUCKET)
    for skipping in (False, True):
        for pair in (released, ordinary):
            train(*pair, range(4), skipping)
    assert_same(released, ordinary)


@pytest.mark.parametrize("clip", [None, ClipByValue(1e-3), ClipAdaptive(0.01)], ids=str)
def test_values_under_a_policy(clip: ClipPolicy | None, device: torch.device) -> None:
    case = Case("AdamW", {"eps": 1e-3})
    released, ordinary, unclipped = new(case, device, clip=clip), new(case, device, clip=clip), new(case, device)
    torch_gd.release_gradients(*released, bucket_bytes=BUCKET)
    for pair in (released, ordinary, unclipped):
        train(*pair, range(2))
    assert_same(released, ordinary)
    if clip is not None:
        assert not torch.equal(released[0].layers[0].weight, unclipped[0].layers[0].weight)


def test_noise_is_that_of_ordinary_training(torch_path: None) -> None:
    """What is rounded by noise is rounded alike, though a bucket holds but a part of the parameters."""
    precision = torch_gd.Precision(weights="stochastic", states="bf16", min_elements=32)
    trained = [new_adamw(precision=precision) for _ in range(2)]
    for model, _ in trained:
        model.bfloat16()
    torch_gd.release_gradients(*trained[1], bucket_bytes=BUCKET // 2)  # of bfloat16
    for model, optimizer in trained:
        for step in range(3):
            x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(step)).bfloat16()
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same(*trained)


@pytest.mark.parametrize("every", [1, 2])
def test_few_gradients_are_in_memory(every: int, torch_path: None) -> None:
    """Never more than a bucket and the last gradient wait, also where buckets lack some; a step leaves none."""
    layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(12))
    optimizer = torch_gd.AdamW(layers.parameters())
    largest = WIDTH * WIDTH * 4
    live: list[int] = []

    def measure(p: Tensor) -> None:
        live.append(sum(q.grad.nbytes for q in layers.parameters() if q.grad is not None))

    for p in layers.parameters():
        p.register_post_accumulate_grad_hook(measure)  # before the release's, so that it sees the last gradient too
    torch_gd.release_gradients(layers, optimizer, bucket_bytes=BUCKET)
    for step in range(4):
        used = list(layers)[:: every if step else 1]
        nn.Sequential(*used)(torch.ones(1, WIDTH)).sum().backward()
        optimizer.step()
        assert all(p.grad is None for p in layers.parameters())
    assert largest < max(live) < BUCKET + largest < 4 * largest


def test_gradients_leave_memory(torch_path: None) -> None:
    """What the CPU's allocator gives out in a backward pass, at its peak, is less by what is released."""

    def peak(bucket_bytes: int | None) -> int:
        model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(8)))
        optimizer = torch_gd.AdamW(model.parameters())
        if bucket_bytes is not None:
            torch_gd.release_gradients(model, optimizer, bucket_bytes=bucket_bytes)
        for _ in range(2):  # the second has states and plans already
            loss = model(torch.ones(1, 64)).sum()
            with torch.profiler.profile(profile_memory=True) as profile:
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
        now = highest = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            now += event.nbytes()
            highest = max(highest, now)
        return highest

    layer = 64 * 65 * 4
    assert peak(2 * layer) < 4 * layer
    assert peak(None) > 8 * layer


def test_plans_are_kept(planned: list[Plan], triton_device: torch.device) -> None:
    """A bucket has one plan, which is found again."""
    model, optimizer = new(Case("AdamW"), triton_device)
    release = torch_gd.release_gradients(model, optimizer, bucket_bytes=BUCKET)
    train(model, optimizer, range(1))
    assert repr(release) == f"GradientRelease(AdamW, bucket_bytes={BUCKET}): 2 buckets"
    assert len(planned) == 2  # of the bucket that was full, and of what was left in step()
    train(model, optimizer, range(1, 3))
    assert len(planned) == 2


def test_hooks_run_once_a_step(torch_path: None) -> None:
    model, optimizer = new_adamw()
    torch_gd.release_gradients(model, optimizer, bucket_bytes=1)
    ran: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: ran.append("before"))
    optimizer.register_step_post_hook(lambda *_: ran.append("after"))
    train(model, optimizer, range(2))
    assert ran == ["before", "after"] * 2
    assert optimizer.state[model.layers[0].weight]["step"] == 2


def test_a_closure_is_called_by_the_step(torch_path: None) -> None:
    released, ordinary = new_adamw(), new_adamw()
    torch_gd.release_gradients(*released, bucket_bytes=BUCKET)
    for model, optimizer in (released, ordinary):
        for step in range(3):

            def closure(model: Net = model, optimizer: Any = optimizer, step: int = step) -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(model, step)
                loss.backward()
                return loss

            assert optimizer.step(closure) > 0
    assert_same(released, ordinary)


def test_everything_goes_on_after_remove(torch_path: None) -> None:
    """Gradients stay, ordinary steps follow, also from the middle of an iteration; and it can be released again."""
    released, ordinary = new_adamw(), new_adamw()
    with torch_gd.release_gradients(*released, bucket_bytes=BUCKET) as release:
        train(*released, range(2))
        loss_of(released[0], 2).backward()
    released[1].step()
    released[1].zero_grad()
    train(*ordinary, range(2))
    loss_of(ordinary[0], 2).backward()
    ordinary[1].step()
    ordinary[1].zero_grad()
    loss_of(released[0], 3).backward()
    assert all(p.grad is not None for p in released[0].layers.parameters())
    assert not released[1]._step_supports_amp_scaling
    assert not released[0]._forward_pre_hooks
    released[1].zero_grad()
    release.remove()  # again, which does nothing
    torch_gd.release_gradients(*released, bucket_bytes=BUCKET)
    train(*released, range(4, 6))
    train(*ordinary, range(4, 6))
    assert_same(released, ordinary)


def add_a_group(model: Net, optimizer: Any) -> None:
    model.more = nn.Linear(WIDTH, WIDTH)
    with torch.no_grad():
        model.more.weight.fill_(0.1)
        model.more.bias.fill_(0.1)
    model.register_forward_hook(lambda module, args, out: module.more(out))
    optimizer.add_param_group({"params": model.more.parameters(), "lr": 0.01})


def load(model: Net, optimizer: Any) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def freeze(model: Net, optimizer: Any) -> None:
    model.layers[1].requires_grad_(False)


def drop_a_group(model: Net, optimizer: Any) -> None:
    del optimizer.param_groups[0]
    model.layers[0].requires_grad_(False)
    model.layers[1].weight.requires_grad_(False)


@pytest.mark.parametrize("change", [add_a_group, load, freeze, drop_a_group])
def test_changes_between_steps(change: Callable[[Net, Any], None], torch_path: None) -> None:
    released, ordinary = new_adamw(), new_adamw()
    release = torch_gd.release_gradients(*released, bucket_bytes=1)
    for pair in (released, ordinary):
        train(*pair, range(2))
        change(*pair)
        train(*pair, range(2, 5))
    assert_same(released, ordinary)
    loss_of(released[0], 0).backward()
    assert not any(p.grad is not None for p in released[0].parameters()), release


def test_a_copy_is_an_ordinary_optimizer(torch_path: None) -> None:
    model, optimizer = new_adamw()
    torch_gd.release_gradients(model, optimizer, bucket_bytes=1)
    train(model, optimizer, range(1))
    twin, second = copy.deepcopy((model, optimizer))
    loss_of(twin, 0).backward()
    assert all(p.grad is not None for p in twin.layers.parameters())
    assert second._rest_of_step is None
    assert pickle.loads(pickle.dumps(optimizer))._rest_of_step is None
    assert pickle.loads(pickle.dumps(model))._forward_pre_hooks  # by name, and of no effect on a copy


def test_overlapping_parameters_are_left_to_the_step(torch_path: None) -> None:
    """Their order matters, which is the group's and not that of their gradients."""

    def trained(released: bool) -> Tensor:
        memory = torch.arange(4.0)
        model = nn.Module()
        model.a, model.b = nn.Parameter(memory[:3]), nn.Parameter(memory[1:])
        optimizer = torch_gd.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
        if released:
            torch_gd.release_gradients(model, optimizer, bucket_bytes=1)
        (model.a.prod() + model.b.square().sum()).backward()
        optimizer.step()
        return memory

    assert torch.equal(trained(True), trained(False))


# --- The norm of the step before --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_type", [2.0, float("inf")])
def test_clipping_by_the_norm_of_the_step_before(norm_type: float, device: torch.device) -> None:
    """Buckets of one tensor each; the larger of two norms clips: the last step's, and that of what has arrived."""
    weights = [torch.tensor([1.0]), torch.tensor([2.0])]
    grads = [[3.0, 4.0], [0.6, 0.8], [30.0, 40.0]]  # of a and b, of which that of b arrives first
    model = nn.Module()
    model.a, model.b = (nn.Parameter(w.to(device)) for w in weights)
    optimizer = torch_gd.SGD(model.parameters(), lr=1.0, clip=ClipByGlobalNorm(0.5, norm_type))
    with pytest.raises(ValueError, match="norm of all gradients before the first is used"):
        torch_gd.release_gradients(model, optimizer)
    torch_gd.release_gradients(model, optimizer, bucket_bytes=1, norm="previous")
    before = 0.0
    for of_a, of_b in grads:
        was = [float(model.a.detach()), float(model.b.detach())]
        first = model.a * of_a
        (first + model.b * of_b).backward()
        optimizer.step()
        total = float(torch.linalg.vector_norm(torch.tensor([of_a, of_b], dtype=torch.float64), norm_type))
        norms = [max(before, total), max(before, of_b)]
        expected = [w - g * min(1.0, 0.5 / (norm + 1e-6)) for w, g, norm in zip(was, [of_a, of_b], norms)]
        # Gradient and coefficient are rounded to float32, their product and the difference, too.
        found = [float(model.a.detach()), float(model.b.detach())]
        assert found == pytest.approx(expected, rel=4 * torch.finfo(torch.float32).eps, abs=1e-6)
        assert float(optimizer.last_norm) == pytest.approx(total, rel=1e-6)  # type: ignore[arg-type]
        before = total


def test_another_limit_goes_on_from_the_same_norm(torch_path: None) -> None:
    model, optimizer = new_adamw(clip=1.0)
    release = torch_gd.release_gradients(model, optimizer, bucket_bytes=BUCKET, norm="previous")
    train(model, optimizer, range(2))
    optimizer.clip = 0.5
    release._choose_clip()
    assert torch.equal(release._clip._previous, optimizer.last_norm)  # type: ignore[union-attr, arg-type]


# --- What is refused --------------------------------------------------------------------------------------------------


class Whole(ClipPolicy):
    def apply(self, params: Any, grads: Any) -> None:
        raise AssertionError("it must not be called")


REFUSED = {
    "no model": (lambda m, o: torch_gd.release_gradients(o, m), TypeError, "Invalid model"),
    "torch's": (lambda m, o: torch_gd.release_gradients(m, torch.optim.SGD(m.parameters())), TypeError, "torch_gd's"),
    "no optimizer": (lambda m, o: torch_gd.release_gradients(m, m), TypeError, "not an Optimizer"),
    "bytes": (lambda m, o: torch_gd.release_gradients(m, o, bucket_bytes=0), ValueError, "bucket_bytes"),
    "norm": (lambda m, o: torch_gd.release_gradients(m, o, norm="last"), ValueError, "Invalid norm"),
    "another model": (lambda m, o: torch_gd.release_gradients(Net(), o), ValueError, "none of its parameters"),
    "twice": (
        lambda m, o: [torch_gd.release_gradients(m, o), torch_gd.release_gradients(m, o)],
        RuntimeError,
        "already",
    ),
    "no policy": (lambda m, o: torch_gd.release_gradients(m, o, norm="previous"), ValueError, "the policy is None"),
}
POLICIES = [
    (ClipByGlobalNorm(1.0), None, "norm of all gradients"),
    (Whole(), None, "applied to all gradients at once"),
    (ClipByGlobalNorm(1.0, skip_nonfinite=True), "previous", "leave out a step"),
    (ClipByValue(1.0), "previous", "is for a ClipByGlobalNorm"),
]


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_are_refused(name: str) -> None:
    call, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        call(*new_adamw())


@pytest.mark.parametrize(("clip", "norm", "text"), POLICIES)
def test_policies_that_are_refused(clip: ClipPolicy, norm: Any, text: str, torch_path: None) -> None:
    """At once, and before anything has been updated if they come later."""
    model, optimizer = new_adamw(clip=clip)
    with pytest.raises(ValueError, match=text):
        torch_gd.release_gradients(model, optimizer, norm=norm)
    assert optimizer._rest_of_step is None
    assert not model._forward_pre_hooks
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    optimizer.clip = None if norm is None else 1.0
    torch_gd.release_gradients(model, optimizer, norm=norm, bucket_bytes=1)
    optimizer.clip = clip
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=text):
        loss_of(model, 0).backward()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_differentiable_is_refused() -> None:
    with pytest.raises(ValueError, match="differentiable"):
        torch_gd.release_gradients(*new_adamw(differentiable=True))


def accumulate(model: Net) -> None:
    loss_of(model, 0).backward()
    loss_of(model, 1).backward()


def two_losses(model: Net) -> None:
    """The second begins with a parameter that the first has not met."""
    loss_of(model, 0).backward()
    (loss_of(model, 0) + model.unused.weight.sum()).backward()


def reentrant(model: Net) -> None:
    x = torch.ones(1, WIDTH, requires_grad=True)
    y = checkpoint(model.layers[1], checkpoint(model.layers[0], x, use_reentrant=True), use_reentrant=True)
    y.sum().backward()


@pytest.mark.parametrize("twice", [accumulate, two_losses, reentrant])
def test_a_second_backward_is_refused(twice: Callable[[Net], None], torch_path: None) -> None:
    """Nothing of the second is used, and a step ends the first."""
    model, optimizer = new_adamw()
    torch_gd.release_gradients(model, optimizer, bucket_bytes=1)
    with pytest.raises(RuntimeError, match=r"second backward\(\) before optimizer.step"):
        twice(model)
    assert optimizer.state[model.unused.weight] == {}
    optimizer.zero_grad()
    optimizer.step()
    train(model, optimizer, range(2))
    assert optimizer.state[model.layers[1].weight]["step"] == 3


def test_a_checkpoint_that_is_not_reentrant(torch_path: None) -> None:
    released, ordinary = new_adamw(), new_adamw()
    torch_gd.release_gradients(*released, bucket_bytes=1)
    for model, optimizer in (released, ordinary):
        checkpoint(model, torch.ones(1, WIDTH), use_reentrant=False).sum().backward()
        optimizer.step()
    assert_same(released, ordinary)


def test_a_graph_through_the_gradient_is_refused(torch_path: None) -> None:
    model, optimizer = new_adamw()
    torch_gd.release_gradients(model, optimizer, bucket_bytes=1)
    with pytest.warns(UserWarning, match="create_graph=True"), pytest.raises(RuntimeError, match="a graph of its own"):
        loss_of(model, 0).backward(create_graph=True)
    assert not optimizer.state


def test_gradients_changed_after_backward_are_refused(torch_path: None) -> None:
    model, optimizer = new_adamw()
    torch_gd.release_gradients(model, optimizer, bucket_bytes=BUCKET)
    loss_of(model, 0).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with pytest.raises(RuntimeError, match=r"changed since backward\(\), as by clip_grad_norm_"):
        optimizer.step()


def test_a_grad_scaler_is_refused(torch_path: None) -> None:
    """Where it unscales by itself, where it has been told to, and with float16 autocast before any gradient."""
    for unscale in (False, True):
        model, optimizer = new_adamw()
        torch_gd.release_gradients(model, optimizer, bucket_bytes=1)
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(loss_of(model, 0)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        with pytest.raises(RuntimeError, match="a GradScaler must see all gradients"):
            scaler.step(optimizer)
    with torch.autocast("cpu", torch.float16):
        with pytest.raises(RuntimeError, match="float16 autocast"):
            loss_of(model, 0)
        with torch.no_grad():
            loss_of(model, 0)  # evaluation has no gradients
        loss_of(copy.deepcopy(model), 0)  # nor is a copy released


def test_a_model_that_is_wrapped_later_is_refused(monkeypatch: pytest.MonkeyPatch, torch_path: None) -> None:
    model, optimizer = new_adamw()
    torch_gd.release_gradients(model, optimizer)
    monkeypatch.setattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", nn.Module())
    with pytest.raises(RuntimeError, match="DistributedDataParallel adds gradients up"):
        loss_of(model, 0)


def test_monitors_are_refused(torch_path: None) -> None:
    model, optimizer = new_adamw()
    monitor = torch_gd.Monitor(optimizer, model)
    torch_gd.release_gradients(model, optimizer)
    with pytest.raises(ValueError, match="none is left to record"):
        train(model, optimizer, range(1))
    monitor.close()
    with pytest.raises(ValueError, match="none is left to record"):
        torch_gd.Monitor(optimizer, model)


def test_an_error_names_the_parameter(torch_path: None) -> None:
    """It comes out of backward(), and its bucket is as it was."""
    model, optimizer = new_adamw()
    torch_gd.release_gradients(model, optimizer, bucket_bytes=1)
    train(model, optimizer, range(1))
    weight = model.layers[2].weight
    optimizer.state[weight]["exp_avg"] = torch.zeros(3)
    before = weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"'layers.2.weight'.*a state 'exp_avg' of shape"):
        loss_of(model, 1).backward()
    assert torch.equal(weight, before)
    assert optimizer.state[weight]["step"] == 1
