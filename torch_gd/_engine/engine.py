"""The engine of one optimizer: which plan serves this step."""

from collections.abc import MutableMapping
from threading import Lock

import torch
from torch import Tensor

from ..triton_kernels import runtime
from .agreement import compare_policies
from .clip import Clip, SharedNorm, described, waits_for_ranks
from .plan import Plan
from .spec import Algorithm, Group, State

PLANS = 8  # plans kept for models whose gradients come and go, as under layer drop or in a mixture of experts


class Engine:
    """Carry out an optimizer's steps, by plans that are kept until something changes.

    Args:
        algorithm: the optimizer as data.

    Attributes:
        results: by device, what the clip policy's measuring left there. It outlives plans, since it counts steps.
        scaled: whether a GradScaler has ever handed over what it found.
        plan: the last step's plan, if it can be used again.
        shared_norm: the norm of the next step's gradients, if it has been measured together with others'.
        compared: whether policies have been compared with other ranks; never set where there are none.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm = algorithm
        self.results: dict[torch.device, Tensor] = {}
        self.scaled = False
        self.plan: Plan | None = None
        self.shared_norm: SharedNorm | None = None
        self.compared = False
        self._plans: dict[tuple[bytes, tuple[int, ...]], Plan] = {}  # by which parameters have gradients, and streams
        self._lock = Lock()  # threads may share an optimizer, as in Hogwild

    def step(
        self,
        groups: list[Group],
        states: MutableMapping[Tensor, State],
        clip: Clip | None,
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
    ) -> None:
        """Update every parameter that has a gradient.

        Args:
            groups: the optimizer's parameter groups.
            states: its states.
            clip: its clip policy.
            grad_scale: what `torch.amp.GradScaler` wants gradients divided by.
            found_inf: where it holds a value other than zero, the step is left out.

        Raises:
            RuntimeError: a gradient or a state that cannot be used, named; nothing has been updated then.
            TypeError, ValueError: an option of a group that cannot be used; nothing has been updated then either.
        """
        with self._lock:
            shared, self.shared_norm = self.shared_norm, None
            if shared is not None:
                shared.check(clip)
            if found_inf is not None and not self.scaled:
                self.scaled = True  # from now on only the device knows which steps count
                self.forget_plans()
            # A graph goes on reading its plan's tables, which no other step may change; and what is allocated in
            # inference mode, or is fake, is of no use outside it. Plans for these are not kept.
            watched = runtime.active.watched()
            if watched or runtime.active.capturing() or torch.is_inference_mode_enabled():
                plan = self._new_plan(groups, states, clip)
            else:
                plan = self._current_plan(groups, states, clip)
            total_norm = None if shared is None else shared.norm
            plan.run(groups, grad_scale, found_inf, {} if watched else self.results, total_norm)

    def forget_plans(self) -> None:
        """Make a new plan at the next step."""
        self.plan, self._plans = None, {}

    def _current_plan(self, groups: list[Group], states: MutableMapping[Tensor, State], clip: Clip | None) -> Plan:
        """Return the last step's plan, an earlier one with gradients for the same parameters, or a new one."""
        if self.plan is not None and self.plan.ready(groups, states, clip):
            return self.plan
        params = [p for group in groups for p in group["params"]]
        streams = tuple(map(runtime.active.stream_on, dict.fromkeys(p.device for p in params)))
        pattern = (bytes(p.grad is not None for p in params), streams)
        plan = self._plans.pop(pattern, None)
        if plan is not None and (plan is self.plan or not plan.ready(groups, states, clip)):
            self._plans.clear()  # groups or states have changed, and other plans would keep old ones alive
            plan = None
        if plan is None:
            plan = self._new_plan(groups, states, clip)
        self.plan = plan if plan.reusable else None
        if plan.reusable:
            self._plans[pattern] = plan
            if len(self._plans) > PLANS:
                del self._plans[next(iter(self._plans))]  # the one that has gone unused longest
        return plan

    def _new_plan(self, groups: list[Group], states: MutableMapping[Tensor, State], clip: Clip | None) -> Plan:
        if not self.compared:
            params = [p for group in groups for p in group["params"]]
            extra = () if clip is None else clip.groups
            self.compared = compare_policies(params, extra, described(clip), waits_for_ranks(clip))
        plan = Plan(self.algorithm, groups, states, clip, self.scaled)
        if not plan.ready(groups, states, clip):
            raise AssertionError("a plan just made does not describe the parameters it was made from")
        return plan
