"""A pretended GPU: its tensors lie in host memory, and any operation that would make the host wait for it raises.

Kernels run interpreted. Tests on it show that no host tensor is used where a device tensor must be, that nothing is
read back, and that every upload is from pinned memory. They show nothing that depends on real hardware.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from pretended_graph import Graph
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from torch_gd.triton_kernels.runtime import Runtime, use

# The only device other than the CPU that every build of torch has. It has neither memory nor kernels of its own.
GPU = torch.device("meta")
WAITING = {"_local_scalar_dense", "_unique2", "allclose", "bincount", "equal", "masked_select", "nonzero"}
# These wait if they are given a mask, to know how many elements it selects.
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class OnGPU(Tensor):
    """A tensor on the pretended GPU.

    Args:
        memory: the CPU tensor that holds its elements.
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
    """Run operators on the pretended GPU, and keep a record of them.

    Attributes:
        strict: whether an operation that would wait raises.
        uploads: elements of each copy from the host.
        allocations: elements of each tensor for which memory was taken.
        tensors: all tensors on the pretended GPU.
        graph: the graph being captured, if one is.
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
            with self:  # autograd would have decomposed it, but is off in inference mode
                return func.decompose(*args, **kwargs)
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = [one for one in tensors if isinstance(one, OnGPU)]
        asked_for = kwargs.get("device")
        if not there and asked_for != GPU:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if name in ("copy_", "_to_copy"):
            target, source = (args[0].device, args[1]) if name == "copy_" else (asked_for or GPU, args[0])
            self._check_copy(source, torch.device(target), kwargs.get("non_blocking", args[2:] == (True,)))
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
        """Return the GPU tensor that holds a result: a known one if the operator returned its input, else a new one."""
        if id(memory) in known:
            return known[id(memory)]
        if all(memory.untyped_storage()._cdata != one.memory.untyped_storage()._cdata for one in known.values()):
            self.allocations.append(memory.numel())
        made = OnGPU(memory)
        self.tensors.add(made)
        return made

    def _check_copy(self, source: Tensor, target: torch.device, non_blocking: bool) -> None:
        """Record an upload; if strict, raise for a copy that waits."""
        if isinstance(source, OnGPU) and target != GPU and (self.strict or non_blocking):
            why = "may be read before it has arrived" if non_blocking else "waits for the GPU"
            raise RuntimeError(f"a copy of {tuple(source.shape)} to the host {why}")
        if not isinstance(source, OnGPU) and target == GPU:
            self.uploads.append(source.numel())
            if self.strict and not (non_blocking and hasattr(source, "pinned")):
                raise RuntimeError(f"an upload of {tuple(source.shape)} is not from pinned memory, or waits")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Clear the records, and raise for any operation that would wait, within a `with` block."""
        for record in (self.uploads, self.allocations):
            record.clear()
        self.strict = True
        try:
            yield
        finally:
            self.strict = False

    def warm_up(self, step: Callable[[], Any]) -> None:
        """Take three steps; there is only one stream."""
        for _ in range(3):
            step()

    @contextmanager
    def capture(self) -> Iterator[Graph]:
        """Record what is called; as on a GPU, nothing has happened to any tensor when the block ends."""
        before = [(one.memory, one.memory.clone()) for one in self.tensors]
        self.graph = Graph()
        try:
            yield self.graph
        finally:
            self.graph = None
        for memory, values in before:
            memory.copy_(values)


def _memory(one: Any) -> Any:
    return one.memory if isinstance(one, OnGPU) else one


class PretendedRuntime(Runtime):
    """The machine with the pretended GPU, whose tensors our kernels serve.

    Args:
        gpu: the pretended GPU.
    """

    plain_types = (*Runtime.plain_types, OnGPU)

    def __init__(self, gpu: Pretended) -> None:
        self.gpu = gpu

    def watched(self) -> bool:
        return False  # by this pretence's own mode only

    def serves(self, tensor: Tensor) -> bool:
        return isinstance(tensor, OnGPU)

    def capturing(self) -> bool:
        return self.gpu.graph is not None

    def pinned(self, host: Tensor) -> Tensor:
        pinned = host.clone()
        pinned.pinned = True  # type: ignore[attr-defined]  # what `_check_copy` looks for
        if self.gpu.graph is not None:
            self.gpu.graph.keep(pinned)
        return pinned

    def start(self, kernel: Any, launcher: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if any(isinstance(arg, Tensor) and not isinstance(arg, OnGPU) for arg in args):
            raise RuntimeError(f"{kernel.fn.__name__} is given a tensor of the host")
        args = tuple(map(_memory, args))
        if self.gpu.graph is not None:
            self.gpu.graph.record(lambda *args: launcher(*args, **options), args, {})
        return launcher(*args, **options)


@contextmanager
def pretended_gpu() -> Iterator[Pretended]:
    """Put tensors for which `device=GPU` is asked on the pretended GPU, within a `with` block."""
    gpu = Pretended()
    with use(PretendedRuntime(gpu)), gpu:
        yield gpu
