"""torch's `Optimizer`, wired to the engine: what every optimizer of this package shares."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from .._arguments import found, number
from .._engine.clip import measures
from .._engine.engine import Engine
from .._engine.precision import KEY as PRECISION
from .._engine.precision import Precision, as_precision
from .._engine.routes import can_fuse, cannot_fuse, name_of
from .._engine.shards import is_dtensor
from .._engine.spec import Algorithm, Group, LayerStep, LoopTensors, State, TorchFlags, UpdateSpec, new_step_counter
from .._engine.storage import check_precision
from ..clipping.policies import ClipPolicy, as_policy, with_groups_of
from ..clipping.step_norm import COEFFICIENT, NORM, SKIPPED_SO_FAR
from ..triton_kernels import runtime
from . import checks
from .low_precision import UncastOptimizer, float32_state_dict, float32_weights, lower_weights, save_remainders
from .profiling import profile_hook_step
from .saved_policy import KEY, put_policy, take_policy

_STANDARD: Group = {"maximize": False, "foreach": None, "differentiable": False}


def _clip_result(place: int, meaning: str) -> property:
    def get(self: "FusedOptimizer") -> Tensor | None:
        if place != SKIPPED_SO_FAR and not measures(self._clip):
            return None
        result = next(reversed(self._engine.results.values()), None)  # of the device that measured last
        if place == SKIPPED_SO_FAR:
            if result is not None:
                return result[place] + self._skipped_before
            before = self._skipped_before
            return torch.tensor(before, dtype=torch.float64, device="cpu") if before else None
        # In the capture of a graph, the tensor that each replay fills; else a copy, which no later step changes.
        return result if result is None else result[place] if runtime.active.capturing() else result[place].clone()

    get.__doc__ = f"""Return {meaning}: 0-d, float64, on the device; None unless a policy has measured one."""
    return property(get)


def _add_skipped_steps(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Put the skipped steps into a state dict, beside the policy: a hook, so that it comes before a user's own."""
    if isinstance(optimizer, FusedOptimizer) and (groups := [g for g in state_dict["param_groups"] if KEY in g]):
        put_policy(groups, optimizer._clip, optimizer._count_skipped())


class FusedOptimizer(UncastOptimizer):
    """The base of the optimizers: torch's `Optimizer`, whose step our engine carries out.

    A subclass adds its constructor and three static methods: `spec`, and if need be `init_state` and `torch_step`. The
    guide of `torch_gd.optimizers` has a whole optimizer in thirty lines.

    Args:
        params: parameters, named parameters or groups, as torch takes them.
        defaults: default hyperparameters of the groups. `maximize`, `foreach` and `differentiable` are added.
        clip: a clip policy, or a number for `ClipByGlobalNorm`. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; also a group's own. Default: 0.
        precision: how weights and states are stored, a `torch_gd.Precision` or a number of bytes a parameter; also a
            group's own. Default: None, as torch does.

    Raises:
        TypeError: `clip` is neither a policy nor a number, a group has a `clip` of its own, or `params` is a module.
        RuntimeError: `fused=True` for a parameter that no fused implementation serves.
    """

    _older_checkpoints: ClassVar[Group] = _STANDARD  # options of a group that a checkpoint may lack
    profile_hook_step = staticmethod(profile_hook_step)

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        number("l1", l1)
        policy, stored = as_policy(clip), as_precision(precision)
        defaults = {**defaults, **{name: value for name, value in _STANDARD.items() if name not in defaults}}
        # Neither is among the defaults unless it is used, so that a checkpoint stays torch's.
        if l1 != 0:
            defaults["l1"] = l1
        if stored is not None:
            defaults[PRECISION] = stored.text
        super().__init__(checks.not_empty(params), defaults)
        self._start(policy)

    def _start(self, clip: ClipPolicy | None) -> None:
        name = type(self).__name__
        if self.spec is FusedOptimizer.spec:
            raise NotImplementedError(f"{name} must define spec(group), which returns a torch_gd.optimizers.UpdateSpec")
        self._engine = Engine(self._algorithm())
        self._clip, self._skipped_before = clip, 0
        # What is left of a step where `release_gradients` has taken most of it; given what a GradScaler has found.
        self._rest_of_step: Callable[[Any, Any], None] | None = None
        if clip is not None:  # None is saved only once it has been chosen, so that a checkpoint stays torch's
            put_policy(self.param_groups, clip)
        self.register_state_dict_post_hook(_add_skipped_steps)
        self.register_state_dict_post_hook(save_remainders)
        self._step_profile_name = f"Optimizer.step#{name}.step"
        self._declare_amp()

    def _algorithm(self) -> Algorithm:
        torch_step = None if self.torch_step is FusedOptimizer.torch_step else self.torch_step
        return Algorithm(type(self).__name__, self.spec, self.init_state, torch_step)

    # --- What an algorithm defines -----------------------------------------------------------------------------------

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the algorithm under a group's options, as data."""
        raise NotImplementedError

    @staticmethod
    def init_state(group: Group, p: Tensor) -> State:
        """Return the state of a parameter that has none. States left out are zeros, made at the first step."""
        return {}

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> LayerStep | None:
        """Update tensors of one group with torch's own operators, for what the kernels do not serve."""
        raise NotImplementedError

    # --- The step ----------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: a gradient or a state that cannot be used, named; nothing has been updated then.
            TypeError, ValueError: a group's option that cannot be used; nothing has been updated then either.
        """
        if "capturable" in self.defaults:
            self._accelerator_graph_capture_health_check()
        loss = None
        if closure is not None:
            if not callable(closure):
                raise TypeError(f"Invalid closure: {found(closure)}; step() takes a function that returns the loss")
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_dynamo_compiling():
            with torch.set_grad_enabled(self.defaults["differentiable"]):
                self._update_untraced()
            return loss
        grad_mode = torch.is_grad_enabled()
        torch._C._set_grad_enabled(self.defaults["differentiable"])  # what the context manager calls, in half its time
        try:
            self._update()
        finally:
            torch._C._set_grad_enabled(grad_mode)
        return loss

    def _update(self) -> None:
        # A GradScaler sets these two attributes around a step.
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if self._rest_of_step is None:
            self._engine.step(self.param_groups, self.state, self._clip, grad_scale, found_inf)
        else:
            self._rest_of_step(grad_scale, found_inf)

    # For a caller that is traced. Around every step it would cost a lone tensor some per cent.
    _update_untraced = _disable_dynamo(_update)

    # --- Clipping ----------------------------------------------------------------------------------------------------

    @property
    def clip(self) -> ClipPolicy | None:
        """The clip policy, which may be changed at any time; a number stands for `ClipByGlobalNorm`."""
        return self._clip

    @clip.setter
    def clip(self, clip: ClipPolicy | float | None) -> None:
        # Lightning's wrappers are of our class as well, and what is set on one is meant for the optimizer inside.
        inside: FusedOptimizer = self.__dict__.get("_optimizer", self)
        inside._clip = as_policy(clip)
        put_policy(inside.param_groups, inside._clip)
        inside._declare_amp()

    last_norm = _clip_result(NORM, "the global norm of the last step's gradients before clipping")
    last_coefficient = _clip_result(COEFFICIENT, "what the last step's gradients were multiplied by")
    skipped_steps = _clip_result(SKIPPED_SO_FAR, "the number of steps left out by `skip_nonfinite`")

    def _declare_amp(self) -> None:
        # A GradScaler leaves unscaling and skipping to an optimizer that says so. torch's fused optimizers do, and an
        # optimizer with a clip policy must, since clipping comes after unscaling. No other may, since Lightning refuses
        # to clip for an optimizer that does. Where gradients are released, the step refuses both.
        special = self._clip is not None or self._rest_of_step is not None
        self._step_supports_amp_scaling = special or any(g.get("fused") for g in self.param_groups)

    # --- Groups and state --------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, as torch does, and raise at once where its options cannot be had."""
        if isinstance(param_group, dict):
            if param_group.get("clip") is not None:
                raise TypeError(
                    "Invalid clip in a parameter group: a policy belongs to the optimizer; pass clip= to it, or set "
                    "optimizer.clip (zero.optim.clip of a ZeroRedundancyOptimizer, which passes arguments to groups)"
                )
            param_group.pop(KEY, None)  # of the optimizer that the group was of
            number("l1", param_group.get("l1", 0.0))
            if (stored := as_precision(param_group.get(PRECISION))) is not None:
                param_group[PRECISION] = stored.text
            if "params" in param_group:
                param_group["params"] = checks.parameters(param_group["params"])
        super().add_param_group(param_group)
        i, group = len(self.param_groups) - 1, self.param_groups[-1]
        if KEY in self.param_groups[0]:
            put_policy([group], self._clip)
        if group.get(PRECISION) is not None:
            try:
                check_precision(self._algorithm(), group, i, self.spec(group))
            except (TypeError, ValueError):
                del self.param_groups[-1]
                raise
        for p in group["params"]:
            if group.get("fused") and p.requires_grad and p.device.type != "meta" and not can_fuse(p):
                del self.param_groups[-1]
                raise RuntimeError(f"{type(self).__name__}: {name_of(group, i, p)} {cannot_fuse(p)}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load states and hyperparameters, as torch does; the clip policy of the checkpoint is one of these."""
        if not isinstance(state_dict, Mapping):
            hint = "pass what an optimizer's state_dict() returned"
            raise TypeError(f"Invalid state_dict: {found(state_dict)} is no dict; {hint}")
        super().load_state_dict(state_dict)

    def to_float32_state_dict(self) -> dict[str, Any]:
        """Return a state dict with float32 states under torch's names, whatever the groups' `precision`.

        torch's optimizer of the same name loads it, and so does one of ours, with or without a precision. The bits that
        are kept of weights are not among them: see `float32_weights`.

        Example:
            >>> import torch, torch_gd
            >>> p = torch.ones(64, 64, dtype=torch.bfloat16, requires_grad=True)
            >>> optimizer = torch_gd.AdamW([p], precision=7.25)
            >>> p.sum().backward()
            >>> optimizer.step()
            >>> list(optimizer.to_float32_state_dict()["state"][0])
            ['step', 'exp_avg', 'exp_avg_sq']
        """
        return float32_state_dict(self._engine.algorithm, self.param_groups, self.state_dict())

    def float32_weights(self) -> dict[Tensor, Tensor]:
        """Return the exact float32 value of each parameter, with the bits that the optimizer keeps of it, for export.

        Example:
            >>> import torch, torch_gd
            >>> model = torch.nn.Linear(64, 64)
            >>> optimizer = torch_gd.AdamW(model.parameters(), precision=14)
            >>> before = model.weight.detach().clone()
            >>> optimizer.lower_weights()
            >>> exact = optimizer.float32_weights()
            >>> torch.equal(exact[model.weight], before)
            True
            >>> exported = {name: exact[p] for name, p in model.named_parameters()}
        """
        return float32_weights(self.param_groups, self.state)

    def lower_weights(self) -> None:
        """Make bfloat16 of every float32 parameter in groups whose `precision` has `weights`, and keep the low bits.

        Parameters that are not the optimizer's stay float32: convert these with the model.

        Each stays the same `Parameter`, with new memory. "bf16+16" keeps all bits, and so do small tensors and those
        that are to be kept; "bf16+8" keeps 8 of them; "stochastic" rounds to nearest. Gradients that are there are
        dropped. Call it before the first step, and before the model is sharded.

        Raises:
            RuntimeError: a DTensor, a tensor subclass, or a parameter that shares memory with another one; named, and
                nothing has been changed.

        Example:
            >>> import torch, torch_gd
            >>> model = torch.nn.Linear(64, 64)
            >>> optimizer = torch_gd.AdamW(model.parameters(), precision=torch_gd.Precision("bf16+8", "8bit"))
            >>> optimizer.lower_weights()
            >>> model.weight.dtype
            torch.bfloat16
        """
        lower_weights(self._engine.algorithm, self.param_groups, self.state)
        self._engine.forget_plans()

    def _count_skipped(self) -> int:
        return 0 if self.skipped_steps is None else int(self.skipped_steps)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_clip": self._clip, "_skipped_before": self._count_skipped()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "FusedOptimizer":
        for grad in (p.grad for group in self.param_groups for p in group["params"]):
            if is_dtensor(grad):  # FSDP2's lie in one buffer, and torch takes the offset for memory of a DTensor itself
                memo.setdefault(id(grad), grad.detach().clone())
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(deepcopy(self.__getstate__(), memo))
        return copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Both of a pickle, and of what `load_state_dict` has found.
        groups, saved = take_policy(state["param_groups"])
        # A checkpoint without L1 or a policy does not switch it off.
        before = self.__dict__.get("param_groups", ())
        super().__setstate__({**state, "param_groups": groups})
        for group, old in zip(self.param_groups, before):
            for name in ("l1", KEY, PRECISION):
                if name in old:
                    group.setdefault(name, old[name])
            for name, value in old.items():
                if isinstance(value, tuple) and isinstance(group.get(name), list):
                    group[name] = tuple(group[name])  # which torch.distributed.checkpoint turns into a list
        for group in self.param_groups:
            for name, value in self._older_checkpoints.items():
                group.setdefault(name, value)
            for p in group["params"]:
                p_state = self.state.get(p, {})
                if "step" in p_state and not isinstance(p_state["step"], Tensor):
                    p_state["step"] = new_step_counter(group, p).fill_(float(p_state["step"]))
        if "_engine" not in self.__dict__:
            self._start(state.get("_clip"))
            self._skipped_before = state.get("_skipped_before", 0)
        elif saved is None:
            self._skipped_before = 0
        else:
            policy, self._skipped_before = saved
            self._clip = with_groups_of(self._clip, policy)
        if saved is not None:
            put_policy(self.param_groups, self._clip)
        for result in self._engine.results.values():  # in place, for the sake of a captured graph
            result[SKIPPED_SO_FAR] = 0
        self._engine.forget_plans()
        self._declare_amp()

    def __repr__(self) -> str:
        clip = "" if self._clip is None else f"clip: {self._clip!r}\n"
        return f"{super().__repr__().removesuffix(')')}{clip})"
