"""What every optimizer of this package shares: a step that gathers, chooses a path and updates; states; AMP."""

from abc import abstractmethod
from collections.abc import Callable
from threading import Lock
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from .._engine import backend
from . import checks as validate
from .._engine.batch import FusedTensors
from ..clipping.functions import ClipPolicy
from .._engine.plan import Plan

PLANS = 8  # kept for models whose gradients come and go, as under layer drop or a mixture of experts

Group: TypeAlias = dict[str, Any]
State: TypeAlias = dict[str, Any]


class FusedOptimizer(Optimizer):
    """Base of the optimizers; an algorithm adds its constructor and the methods under "What an algorithm says".

    Args:
        params: parameters, named parameters or groups, as torch takes them.
        defaults: the groups' default hyperparameters; must hold `maximize`, `foreach` and `differentiable`.
        clip: what is done to gradients as they are read. Default: nothing.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; also a group's own. Default: 0.

    Raises:
        RuntimeError: `fused=True` for a parameter that no fused implementation serves.
    """

    accepts_sparse: ClassVar[bool] = False
    has_torch_fused: ClassVar[bool] = False

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], clip: ClipPolicy | None = None, l1: float = 0.0
    ) -> None:
        validate.not_negative(l1=l1)
        self._lock = Lock()  # threads that share an optimizer, as in Hogwild, share its plans
        self._plan: Plan | None = None
        self._plans: dict[tuple[bytes, tuple[int, ...]], Plan] = {}  # by which parameters have gradients, and streams
        self._clip = clip
        self._scaled = False  # whether a GradScaler hands us what it found
        self.clip_results: dict[torch.device, Tensor] = {}
        # Not among the defaults unless used, so that a checkpoint stays torch's.
        super().__init__(params, defaults if l1 == 0 else {**defaults, "l1": l1})
        self._declare_amp()

    # --- What an algorithm says --------------------------------------------------------------------------------------

    @abstractmethod
    def rule(self, group: Group) -> tuple[Any, tuple[Any, ...]]:
        """The Triton rule, and its compile-time options."""

    @abstractmethod
    def state_names(self, group: Group) -> tuple[str, ...]:
        """Keys of the states that have an element for each of the parameter's, in the rule's order."""

    @abstractmethod
    def hyperparameters(self, group: Group) -> tuple[float | Tensor, ...]:
        """What the rule's `scalars` takes, in its order."""

    def new_state(self, group: Group, p: Tensor) -> State:
        """The state of a parameter that has none."""
        return {}

    def missing_state(self, group: Group, p: Tensor, g: Tensor) -> Tensor:
        """What stands for a state that is not there yet."""
        return torch.zeros_like(p, memory_format=torch.preserve_format)

    def functional(
        self, group: Group, params: list[Tensor], grads: list[Tensor], states: list[State], flags: dict[str, Any]
    ) -> None:
        """Torch's own implementation; `flags` are its foreach, fused, grad_scale and found_inf."""
        raise RuntimeError(
            f"{type(self).__name__} has no implementation without Triton, which does not serve {params[0].dtype} "
            f"parameters on {params[0].device} here"
        )

    def fused_update(self, group: Group, tensors: FusedTensors) -> bool:
        """Torch's own fused CPU kernel, called where `has_torch_fused`, or what is as good.

        Over hundreds of small tensors, torch's functional wrapper takes longer than the kernel that it calls.

        Returns:
            Whether autograd saw it, as it does every operator but the fused kernels.
        """
        raise NotImplementedError

    def foreach_choice(self, group: Group, params: list[Tensor]) -> bool | None:
        """What `functional` is to be told of foreach."""
        choice: bool | None = group["foreach"]
        return choice

    def sparse_conflict(self, group: Group) -> str:
        """Why a sparse gradient cannot be used with this group's options; empty if it can."""
        return ""

    def needs_one_dtype(self, group: Group) -> bool:
        """Whether torch's implementation refuses a gradient of another dtype than its parameter."""
        return False

    # --- The step ----------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: a gradient that cannot be used, named; nothing has been updated then.
        """
        if "capturable" in self.defaults:
            self._accelerator_graph_capture_health_check()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            if torch.compiler.is_dynamo_compiling():
                self._update_untraced()
            else:
                self._update()
        return loss

    def _update(self) -> None:
        with self._lock:
            self._plan_and_run()

    # For a caller that is traced; around every step, over small tensors, it would be felt.
    _update_untraced = _disable_dynamo(_update)

    def _plan_and_run(self) -> None:
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None and not self._scaled:
            self._scaled = True  # from now on only the device knows which steps count
            self._forget_plans()
        initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if initialized and torch.cuda.is_current_stream_capturing():
            plan = self._new_plan()  # not kept: a graph goes on reading its tables, which no other step may change
        elif torch.is_inference_mode_enabled():
            plan = self._new_plan()  # not kept: what is allocated in this mode cannot be written to outside it
        else:
            plan = self._current_plan()
        plan.run(getattr(self, "grad_scale", None), found_inf)

    def _current_plan(self) -> Plan:
        """The last step's plan, an earlier one with gradients for the same parameters, or a new one."""
        if self._plan is not None and self._plan.ready():
            return self._plan
        params = [p for group in self.param_groups for p in group["params"]]
        streams = tuple(map(backend.stream_on, dict.fromkeys(p.device for p in params)))
        pattern = (bytes(p.grad is not None for p in params), streams)
        plan = self._plans.pop(pattern, None)
        if plan is None or plan is self._plan or not plan.ready():
            plan = self._new_plan()
        self._plan = plan if plan.reusable else None
        if plan.reusable:
            self._plans[pattern] = plan
            if len(self._plans) > PLANS:
                del self._plans[next(iter(self._plans))]  # the one that has gone unused longest
        return plan

    def _new_plan(self) -> Plan:
        plan = Plan(self)
        if not plan.ready():
            raise AssertionError("a plan just made does not describe the parameters it was made from")
        return plan

    def _forget_plans(self) -> None:
        self._plan, self._plans = None, {}

    # --- Clipping ----------------------------------------------------------------------------------------------------

    @property
    def clip(self) -> ClipPolicy | None:
        """What is done to gradients as they are read; may be changed at any time."""
        return self._clip

    @clip.setter
    def clip(self, clip: ClipPolicy | None) -> None:
        self._clip = clip
        self._forget_plans()
        self._declare_amp()

    @property
    def last_norm(self) -> Tensor | None:
        """Global norm of the last step's gradients before clipping, 0-d on the device; None before there is one."""
        return self._last(0)

    @property
    def last_coefficient(self) -> Tensor | None:
        """What the last step's gradients were multiplied by, 0-d on the device; None before there is one."""
        return self._last(1)

    @property
    def skipped_steps(self) -> Tensor | None:
        """Steps left out by `skip_nonfinite`, 0-d on the device; None before there was a step."""
        return self._last(3)

    def _last(self, place: int) -> Tensor | None:
        return next((result[place] for result in self.clip_results.values()), None)

    # --- Paths -------------------------------------------------------------------------------------------------------

    def structure(self, group: Group) -> tuple[Any, ...]:
        """What a plan depends on, of a group's options; asked again when one other than `lr` has changed."""
        rule = self.rule(group) if backend.rules is not None else None
        tensors = [isinstance(value, Tensor) for value in self.hyperparameters(group)]
        choices = (group["foreach"], group.get("fused"), group.get("capturable"), group["differentiable"])
        return rule, self.state_names(group), choices, tensors

    def counts_on_device(self, group: Group, states: list[State]) -> list[bool]:
        """Whether counters or hyperparameters of a group live where the host cannot read them without waiting."""
        if any(map(_is_off_the_host, self.hyperparameters(group))):
            return [True] * len(states)
        asked = bool(group.get("fused") or group.get("capturable") or self._scaled)
        asked = asked or getattr(self.clip, "skip_nonfinite", False)
        return ["step" in state and (asked or _is_off_the_host(state["step"])) for state in states]

    def can_fuse(self, p: Tensor) -> bool:
        """Whether some fused implementation serves a parameter."""
        return backend.serves(p) or (p.is_floating_point() and p.device.type in _get_fused_kernels_supported_devices())

    def why_not_fused(self, p: Tensor) -> str:
        devices = _get_fused_kernels_supported_devices()
        return (
            f"is {p.dtype} on {p.device}, but `fused=True` requires all the params to be floating point Tensors "
            f"of supported devices: {devices}; leave `fused` out, or move the parameter"
        )

    def torch_would_fuse(self, group: Group, p: Tensor) -> bool:
        """Whether torch's fused kernels are to serve a parameter that ours do not.

        They are the fastest that torch has on the CPU, where it does not choose them by itself. `capturable` is
        left to torch, which has its own word to say about it there.
        """
        if group.get("fused"):
            return True
        if not self.has_torch_fused or p.device.type != "cpu" or not p.is_floating_point():
            return False
        return not group.get("capturable") and not isinstance(group["weight_decay"], Tensor)

    # --- State -------------------------------------------------------------------------------------------------------

    def state_of(self, group: Group, p: Tensor) -> State:
        """A parameter's state, made if there is none."""
        state: State = self.state[p]
        if not state:
            state.update(self.new_state(group, p))
        return state

    def step_counter(self, group: Group, p: Tensor) -> Tensor:
        """A counter at zero: on the CPU, or with the parameter if `fused` or `capturable` asks for it."""
        dtype = torch.get_default_dtype() if torch.get_default_dtype() == torch.float64 else torch.float32
        if group.get("fused"):
            return torch.zeros((), dtype=torch.float32, device=p.device)
        return torch.zeros((), dtype=dtype, device=p.device if group.get("capturable") else "cpu")

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group, as torch does, and raises `RuntimeError` at once where its `fused=True` cannot be had."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for j, p in enumerate(group["params"]):
            if group.get("fused") and p.requires_grad and p.device.type != "meta" and not self.can_fuse(p):
                i = len(self.param_groups) - 1
                message = f"{type(self).__name__}: {self.describe(i, j)} {self.why_not_fused(p)}"
                del self.param_groups[-1]
                raise RuntimeError(message)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and the clip policy if there is one, as plain data."""
        state = super().state_dict()
        return state if self.clip is None else {**state, "clip": self.clip.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; a clip policy in the checkpoint takes the place of this optimizer's."""
        super().load_state_dict(state_dict)
        if state_dict.get("clip") is not None:
            self.clip = ClipPolicy.from_state_dict(state_dict["clip"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_clip": self._clip}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget_plans()
        defaults: dict[str, Any] = {
            "_lock": Lock(),
            "_clip": None,
            "_scaled": False,
            "clip_results": {},
        }
        for name, value in defaults.items():
            self.__dict__.setdefault(name, value)
        for group in self.param_groups:
            for name, value in self.group_defaults().items():
                group.setdefault(name, value)
            for p in group["params"]:
                p_state = self.state.get(p, {})
                if "step" in p_state and not isinstance(p_state["step"], Tensor):
                    p_state["step"] = self.step_counter(group, p).fill_(float(p_state["step"]))
        self._declare_amp()

    def group_defaults(self) -> dict[str, Any]:
        """Options that a checkpoint older than they are lacks."""
        return {"maximize": False, "foreach": None, "differentiable": False}

    def _declare_amp(self) -> None:
        """`torch.amp.GradScaler` leaves unscaling and skipping to an optimizer that says so, as torch's fused do.

        A clip policy says so too: it must come after unscaling. No other optimizer may, since Lightning refuses to clip
        for one that does.
        """
        self._step_supports_amp_scaling = self.clip is not None or any(g.get("fused") for g in self.param_groups)

    def describe(self, i: int, j: int) -> str:
        """Names parameter `j` of group `i` for an error message."""
        group = self.param_groups[i]
        name = f" ({group['param_names'][j]!r})" if "param_names" in group else ""
        return f"parameter {j} of group {i}{name}, of shape {tuple(group['params'][j].shape)},"


def _is_off_the_host(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_cpu
