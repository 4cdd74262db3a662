"""Every optimizer gives torch's values: all options, all dtypes and both routes, over many shapes and layouts."""

import pytest
import torch
from catalogue import CASES, Case
from torch import Tensor

STEPS = 8  # each gradient is missing in one step of seven


def layouts(dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Return a tensor of every layout, by name."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64).to(device, dtype)

    return {
        "contiguous": randn(5, 7),
        "longer than a block": randn(5_000),
        "channels last": randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "transposed": randn(4, 6).t(),
        "strided view": randn(4, 10)[:, ::2],
        "misaligned": randn(4, 9).view(-1)[1:],
        "0-d": randn(),
        "empty": randn(0, 3),
        "gradient of other strides": randn(4, 6),
        "size 1 of odd stride": randn(3, 1, 2),
    }


def laid_out(name: str, gradient: Tensor) -> Tensor:
    """Return a copy of a gradient in the layout that its parameter's name asks for."""
    if name == "channels last":
        return gradient.to(memory_format=torch.channels_last)
    if name == "gradient of other strides":
        return gradient.t().contiguous().t()
    if name == "size 1 of odd stride":
        return torch.empty_strided((3, 1, 2), (2, 17, 1), dtype=gradient.dtype, device=gradient.device).copy_(gradient)
    if name == "misaligned":
        return torch.cat([gradient[:1], gradient])[1:]
    return gradient.clone()


def groups_of(params: list[Tensor], case: Case) -> list[dict[str, object]]:
    """Return three groups; the second has its own lr unless the case sets one, the third its own weight decay."""
    options: dict[str, object] = {} if "lr" in case.options else {"lr": 0.03}
    return [{"params": params[:4]}, {"params": params[4:7], **options}, {"params": params[7:], "weight_decay": 0.2}]


class RoundedOnce:
    """The reference in half precision: torch's for-loop in float32, rounded when parameters and states are stored.

    torch's own loop in half precision rounds after every operation, and so is less exact than our kernels. Its fused
    CPU kernels cannot be the reference for all either, since SGD's skips elements in half precision.
    """

    def __init__(self, params: list[Tensor], case: Case) -> None:
        self.params = params
        self.float = [p.detach().float().requires_grad_() for p in params]
        self.optimizer = case.reference(groups_of(self.float, case), foreach=False)

    def step(self) -> None:
        for p, wide in zip(self.params, self.float):
            wide.grad = None if p.grad is None else p.grad.float()
        self.optimizer.step()
        with torch.no_grad():
            for p, wide in zip(self.params, self.float):
                wide.copy_(p.copy_(wide))
                for name, value in self.optimizer.state.get(wide, {}).items():
                    if name != "step":
                        value.copy_(value.to(p.dtype))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, dtype) for case in CASES for dtype in case.dtypes],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_parity(case: Case, dtype: torch.dtype, device: torch.device, request: pytest.FixtureRequest) -> None:
    """After each step values are torch's up to rounding, and nothing else is written to.

    Some gradients are missing in some steps. Each step adds to the tolerance of an element one ulp of the parameter
    (each side rounds it once, by half an ulp) and 16 ulps of the update (it takes a dozen operations at most, which may
    be in another order, and states carry earlier rounding errors). In half precision states are rounded as well, by an
    ulp of that dtype, which is the ulp that is taken of the update, too.
    """
    on_torch_path = "torch" in request.node.callspec.params["device"]
    if case.triton_only and on_torch_path:
        pytest.skip("torch itself supports this on a GPU only")
    torch.manual_seed(0)
    values = layouts(dtype, device)
    names = list(values)
    ours = [value.requires_grad_() for value in values.values()]
    theirs = [p.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for p in ours]
    half = dtype in (torch.bfloat16, torch.float16)
    optimizer = case.ours(groups_of(ours, case))
    if not half:
        reference = case.reference(groups_of(theirs, case), foreach=False)
    elif on_torch_path and not fuses_on_cpu(case):
        reference = case.reference(groups_of(theirs, case))  # the same implementation on both sides
    else:
        reference = RoundedOnce(theirs, case)
    epsilon = torch.finfo(dtype).eps
    tolerance = [torch.zeros_like(p, dtype=torch.float64) for p in theirs]
    base = ours[4]._base
    assert base is not None
    surroundings = base.clone()

    for step in range(STEPS):
        before = [p.detach().clone().double() for p in theirs]
        for i, (name, p, q) in enumerate(zip(names, ours, theirs)):
            present = (step + i) % 7 != 3
            q.grad = torch.randn(q.shape, dtype=torch.float64).to(device, dtype) if present else None
            p.grad = laid_out(name, q.grad) if present else None
        kept = [None if p.grad is None else p.grad.clone() for p in ours]
        optimizer.step()
        reference.step()
        for i, (p, q) in enumerate(zip(ours, theirs)):
            size = torch.maximum(before[i].abs(), q.detach().double().abs())
            tolerance[i] += epsilon * (size + 16 * (q.detach().double() - before[i]).abs())
            difference = (p.detach().double() - q.detach().double()).abs()
            # RMSprop's eps is 0 in float16, and torch's loop divides by it: both may be NaN.
            same = (p == q) | (p.isnan() & q.isnan())
            assert torch.all((difference <= tolerance[i]) | same), (
                f"step {step}, {names[i]}: off by {difference.max().item():.1e}, "
                f"{(difference / tolerance[i]).max().item():.1f} times what rounding explains"
            )
            assert kept[i] is None or torch.equal(p.grad, kept[i]), "a gradient was written to"
        outside = torch.ones_like(surroundings, dtype=torch.bool)
        outside[:, ::2] = False
        assert torch.equal(base[outside], surroundings[outside]), "elements outside a view changed"
    if dtype == torch.float64:
        assert all(torch.all(t <= 1e-13 * (1 + p.detach().abs())) for t, p in zip(tolerance, theirs))


def fuses_on_cpu(case: Case) -> bool:
    """Return whether the CPU route uses torch's fused kernels for a case in half precision."""
    return case.name in ("Adam", "AdamW", "Adagrad")
