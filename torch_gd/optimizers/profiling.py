"""What torch wraps every optimizer's `step` in, without the part that costs a lone tensor a quarter of its step."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

# `record_function` without its Python wrapper, and whether there is a profiler. Not public, so `_works` tries them.
_profiler_enabled: Any = getattr(torch.autograd, "_profiler_enabled", None)
_enter: Any = getattr(getattr(torch._C, "_autograd", None), "_record_function_with_args_enter", None)
_exit: Any = getattr(getattr(torch._C, "_autograd", None), "_record_function_with_args_exit", None)


def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a `step` so that hooks run and a profiler sees it, as `torch.optim.Optimizer.profile_hook_step` does.

    With a profiler, a hook or Dynamo at work, torch's own wrapper runs. Otherwise the step is only announced to
    observers, such as an `ExecutionTraceObserver` that runs without a profiler.
    """
    torchs: Callable[..., Any] = Optimizer.profile_hook_step(func)
    if not _works():
        return torchs

    @wraps(func)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (
            _profiler_enabled()
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch.compiler.is_dynamo_compiling()
        ):
            return torchs(self, *args, **kwargs)
        record = _enter(self._step_profile_name)
        try:
            return func(self, *args, **kwargs)
        finally:
            _exit(record)

    return step


def _works() -> bool:
    names = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
    try:
        _exit(_enter("torch_gd"))
        return _profiler_enabled() is False and all(isinstance(getattr(torch_optimizer, name), dict) for name in names)
    except (AttributeError, RuntimeError, TypeError):
        return False
