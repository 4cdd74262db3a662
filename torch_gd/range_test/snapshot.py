"""Put back, in place, everything that a training step may change."""

import copy
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._engine.layout import overlaps_itself
from .._engine.sharing import reshard
from ..optimizers import FusedOptimizer


@contextmanager
def everything_restored(modules: Iterable[nn.Module], optimizer: Optimizer, loader: object) -> Iterator[None]:
    """Restore modules, optimizer and random number generators when the block ends, also if it ends with an error.

    Parameters, buffers, gradients, modes, optimizer states and groups are then the same objects with the same values as
    before, and states that the block added are gone, as is what a clip policy measured in it. The generators are
    torch's (those of the CPU, of every GPU and of the loader), Python's, and NumPy's if it has been imported.
    """
    every = list(dict.fromkeys(child for module in modules for child in module.modules()))
    with ExitStack() as restored:
        restored.enter_context(_generators(loader))
        restored.enter_context(_optimizer(optimizer))
        restored.enter_context(_clip_results(optimizer))
        restored.enter_context(_modules(every, optimizer))
        yield


@contextmanager
def _modules(modules: list[nn.Module], optimizer: Optimizer) -> Iterator[None]:
    """Restore parameters, buffers, gradients and training modes."""
    parameters = dict.fromkeys(p for module in modules for p in module.parameters(recurse=False))
    parameters |= dict.fromkeys(p for group in optimizer.param_groups for p in group["params"])
    grads = [(p, p.grad) for p in parameters]
    modes = [(module, module.training) for module in modules]
    tables = [
        (table, dict(table)) for module in modules for table in (module._parameters, module._buffers) if len(table) > 0
    ]
    buffers = [buffer for module in modules for buffer in module.buffers(recurse=False)]
    # Gradients too: DistributedDataParallel reduces those to come in the memory of those that are there.
    values = _TensorValues([*parameters, *buffers, *(grad for _, grad in grads if grad is not None)])
    for p in parameters:
        p.grad = None  # backward would add to a gradient that is there
    try:
        yield
    finally:
        reshard(modules)  # or FSDP2 would go on with whole parameters of the test after a last forward pass
        for table, saved in tables:
            table.clear()
            table.update(saved)  # type: ignore[arg-type]  # parameters or buffers, as in the table
        values.restore()
        for module, mode in modes:
            module.training = mode
        for p, grad in grads:
            p.grad = grad


@contextmanager
def _optimizer(optimizer: Optimizer) -> Iterator[None]:
    """Restore states and parameter groups."""
    states = [(p, state, dict(state)) for p, state in optimizer.state.items()]
    groups = [(group, dict(group)) for group in optimizer.param_groups]
    tables = [saved for _, _, saved in states] + [saved for _, saved in groups]
    values = _TensorValues([value for table in tables for value in table.values() if isinstance(value, Tensor)])
    others = [_copies_of_containers(table) for table in tables]
    stepped = optimizer.__dict__.get("_opt_called")  # a scheduler looks here whether training has begun
    try:
        yield
    finally:
        for table, other in zip(tables, others):
            table.update(other)
        optimizer.state.clear()
        for p, state, saved in states:
            state.clear()
            state.update(saved)
            optimizer.state[p] = state
        for group, saved in groups:
            group.clear()
            group.update(saved)
        values.restore()
        if stepped is None:
            optimizer.__dict__.pop("_opt_called", None)


@contextmanager
def _clip_results(optimizer: Optimizer) -> Iterator[None]:
    """Restore what a clip policy has measured: `last_norm`, `last_coefficient` and `skipped_steps`."""
    if not isinstance(optimizer, FusedOptimizer):
        yield
        return
    engine = optimizer._engine
    saved = dict(engine.results)
    values = _TensorValues(saved.values())
    try:
        yield
    finally:
        engine.results.clear()
        engine.results.update(saved)
        values.restore()
        engine.forget_plans()  # a plan reads the results that were there when it was made


@contextmanager
def _generators(loader: object) -> Iterator[None]:
    """Restore the random number generators."""
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    python_state = random.getstate()
    sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    owners = (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    own = dict.fromkeys(getattr(owner, "generator", None) for owner in owners)
    own_states = [(generator, generator.get_state()) for generator in own if isinstance(generator, torch.Generator)]
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        for generator, state in own_states:
            generator.set_state(state)


class _TensorValues:
    """Copies of what tensors hold, to be written back into the very same tensors."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        # A tensor whose elements share memory cannot be written to, so nothing will have changed it.
        writable = {id(t): t for t in tensors if t.layout != torch.strided or not overlaps_itself(t)}
        self._saved = [(t, t.detach().clone(memory_format=torch.preserve_format)) for t in writable.values()]

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copies back."""
        for tensor, value in self._saved:
            tensor.copy_(value)


def _copies_of_containers(table: dict[str, Any]) -> dict[str, Any]:
    """Return copies of the values that code might change in place, except tensors and parameters."""
    return {
        name: copy.deepcopy(value)
        for name, value in table.items()
        if name != "params" and isinstance(value, (list, dict))
    }
