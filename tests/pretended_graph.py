"""A CUDA graph for the pretended GPU: it records the calls made during a capture and repeats them at each replay.

Like torch from 2.11 on, it keeps alive only the memory that was allocated during the capture, on the GPU or pinned. The
caller must keep alive whatever else a replay reads; a replay that needs freed memory raises.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves, tree_map


class _Place:
    """The memory and shape of a tensor, without keeping the memory alive."""

    def __init__(self, tensor: Tensor) -> None:
        self.storage = StorageWeakRef(tensor.untyped_storage())
        self.dtype = tensor.dtype
        self.view = (tensor.storage_offset(), tensor.size(), tensor.stride())

    def tensor(self) -> Tensor:
        """Return a tensor on the same memory; raise if that has been freed."""
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            raise RuntimeError("a replay needs memory that has been freed")
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.view)


class Graph:
    """The calls recorded during a capture, in order, and the memory that they allocated."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []
        self._pool: list[Any] = []

    def record(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], done: Any = None) -> None:
        """Record a call that has just been made.

        Args:
            call: the function that was called.
            args: its arguments; tensors among them are in host memory.
            kwargs: its keyword arguments, likewise.
            done: what it returned; each replay writes its results into the same new tensors.
        """
        given = [one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        made = [
            (i, one)
            for i, one in enumerate(tree_leaves(done))
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in given
        ]
        for _, one in made:
            self.keep(one)
        where = tree_map(lambda one: _Place(one) if isinstance(one, Tensor) else one, (args, kwargs))
        outputs = [(i, _Place(one)) for i, one in made]

        def repeat() -> None:
            found_args, found_kwargs = tree_map(lambda one: one.tensor() if isinstance(one, _Place) else one, where)
            results = tree_leaves(call(*found_args, **found_kwargs))
            for i, place in outputs:
                place.tensor().copy_(results[i])

        self._calls.append(repeat)

    def keep(self, allocated: Tensor) -> None:
        """Keep alive memory that was allocated during the capture."""
        self._pool.append(allocated.untyped_storage())

    def replay(self) -> None:
        """Repeat all calls."""
        for call in self._calls:
            call()
