"""A GPU that is pretended: its tensors lie in host memory, and what would make the host wait for it raises.

Kernels run interpreted. What it cannot show is what only a GPU can; what it can is that no tensor of the host is used
where one of the device must be, that nothing is read back, and that every upload is from pinned memory.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

import torch
from pretended_graph import Graph
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from torch_gd._engine import backend, guard, layout, plan
from torch_gd.triton_kernels import handle

# The only device beside the CPU that every build of torch has, and neither memory nor kernels of its own.
GPU = torch.device("meta")
WAITING = {"_local_scalar_dense", "_unique2", "allclose", "bincount", "equal", "masked_select", "nonzero"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}  # which wait to know how many a mask selects


class OnGPU(Tensor):
    """A tensor on the pretended GPU.

    Args:
        memory: a tensor on the CPU, that holds its elements.
    """

    memory: Tensor

    @staticmethod
    def __new__(cls, memory: Tensor) -> "OnGPU":
        made: OnGPU = Tensor._make_wrapper_subclass(
            cls, memory.shape, memory.stride(), memory.storage_offset(), dtype=memory.dtype, device=GPU
        )
        made.memory = memory
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({self.memory})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.data_ptr:
            return args[0].memory.data_ptr()
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("used where no GPU is pretended")


@dataclass
class Pretended(TorchDispatchMode):
    """Runs operators on the pretended GPU, and keeps a record of them.

    Attributes:
        strict: whether what would wait raises.
        uploads: elements of each copy from the host.
        allocations: elements of each tensor for which memory was taken.
        tensors: those there are.
        graph: the one being captured, if one is.
    """

    strict: bool = False
    uploads: list[int] = field(default_factory=list)
    allocations: list[int] = field(default_factory=list)
    tensors: "WeakSet[OnGPU]" = field(default_factory=WeakSet)
    graph: Graph | None = None
    device: torch.device = GPU

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.is_inference_mode_enabled() and func._can_decompose():
            with self:  # where autograd would have done it
                return func.decompose(*args, **kwargs)
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = [one for one in tensors if isinstance(one, OnGPU)]
        asked_for = kwargs.get("device")
        if not there and asked_for != GPU:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if name in ("copy_", "_to_copy"):
            target, source = (args[0].device, args[1]) if name == "copy_" else (asked_for or GPU, args[0])
            self._copies(source, torch.device(target), kwargs.get("non_blocking", args[2:] == (True,)))
        elif any(one.dim() or one.device == GPU for one in tensors if not isinstance(one, OnGPU)):
            raise RuntimeError(f"{name} is given tensors of the host and of the GPU")
        elif self.strict and (name in WAITING or (name in INDEXING and any(one.dtype == torch.bool for one in there))):
            raise RuntimeError(f"{name} waits for the GPU")
        if asked_for == GPU:
            kwargs["device"] = "cpu"
        args, kwargs = tree_map(_memory, (args, kwargs))
        done = func(*args, **kwargs)
        if self.graph is not None:
            self.graph.record(func, args, kwargs, done)
        if asked_for is not None and asked_for != GPU:
            return done
        known = {id(one.memory): one for one in there}
        return tree_map(lambda one: self._wrapped(one, known) if isinstance(one, Tensor) else one, done)

    def _wrapped(self, memory: Tensor, known: dict[int, OnGPU]) -> OnGPU:
        if id(memory) in known:
            return known[id(memory)]
        if all(memory.untyped_storage()._cdata != one.memory.untyped_storage()._cdata for one in known.values()):
            self.allocations.append(memory.numel())
        made = OnGPU(memory)
        self.tensors.add(made)
        return made

    def _copies(self, source: Tensor, target: torch.device, non_blocking: bool) -> None:
        if isinstance(source, OnGPU) and target != GPU and (self.strict or non_blocking):
            why = "may be read before it has arrived" if non_blocking else "waits for the GPU"
            raise RuntimeError(f"a copy of {tuple(source.shape)} to the host {why}")
        if not isinstance(source, OnGPU) and target == GPU:
            self.uploads.append(source.numel())
            if self.strict and not (non_blocking and hasattr(source, "pinned")):
                raise RuntimeError(f"an upload of {tuple(source.shape)} is not from pinned memory, or waits")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What would wait raises; records start anew."""
        for record in (self.uploads, self.allocations):
            record.clear()
        self.strict = True
        try:
            yield
        finally:
            self.strict = False

    def warm_up(self, step: Callable[[], Any]) -> None:
        """Three steps; there is one stream only."""
        for _ in range(3):
            step()

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        """What is called is recorded; as on a GPU, nothing has happened when it ends."""
        before = [(one.memory, one.memory.clone()) for one in self.tensors]
        self.graph = Graph()
        with (
            patch.object(torch.cuda, "is_initialized", lambda: True),
            patch.object(torch.cuda, "is_current_stream_capturing", lambda: True),
            patch.object(backend.table, "capturing", lambda device: True),
        ):
            try:
                yield self.graph
            finally:
                self.graph = None
        for memory, values in before:
            memory.copy_(values)


def _memory(one: Any) -> Any:
    return one.memory if isinstance(one, OnGPU) else one


@contextmanager
def pretended_gpu() -> Iterator[Pretended]:
    """Tensors for which `device=GPU` is asked are on the pretended GPU, and our kernels serve them there."""
    gpu = Pretended()
    start = handle.start

    def start_on_memory(kernel: Any, launcher: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if any(isinstance(arg, Tensor) and not isinstance(arg, OnGPU) for arg in args):
            raise RuntimeError(f"{kernel.fn.__name__} is given a tensor of the host")
        args = tuple(map(_memory, args))
        if gpu.graph is not None:
            gpu.graph.record(lambda *args: start(kernel, launcher, args, options), args, {})
        return start(kernel, launcher, args, options)

    def pin_memory(tensor: Tensor) -> Tensor:
        pinned = tensor.clone()
        pinned.pinned = True  # type: ignore[attr-defined]  # what `_copies` looks for
        if gpu.graph is not None:
            gpu.graph.keep(pinned)
        return pinned

    plain = (*layout.PLAIN, OnGPU)
    with ExitStack() as stack:
        stack.enter_context(patch.object(handle, "start", start_on_memory))
        stack.enter_context(patch.object(backend, "serves", lambda tensor: isinstance(tensor, OnGPU)))
        stack.enter_context(patch.object(layout, "PLAIN", plain))
        stack.enter_context(patch.object(plan, "PLAIN", plain))
        stack.enter_context(patch.object(guard, "_LIE_AT", None))  # would look where the memory is not
        stack.enter_context(patch.object(Tensor, "pin_memory", pin_memory))
        stack.enter_context(gpu)
        yield gpu
