"""A CUDA graph of the pretended GPU: what is called while it is captured is called again at each replay.

It holds on to no memory but what was allocated while it was captured, on the GPU or pinned, as torch does from 2.11 on.
Whatever else a replay needs must have been kept by whoever wants it replayed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves, tree_map


class _Place:
    """Where a tensor lies, without keeping it there."""

    def __init__(self, tensor: Tensor) -> None:
        self.storage = StorageWeakRef(tensor.untyped_storage())
        self.dtype = tensor.dtype
        self.view = (tensor.storage_offset(), tensor.size(), tensor.stride())

    def tensor(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            raise RuntimeError("a replay needs memory that has been let go of")
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.view)


class Graph:
    """Calls, in order, and the memory that was allocated for them."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []
        self._pool: list[Any] = []

    def record(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], done: Any = None) -> None:
        """Takes a call that has just been made.

        Args:
            call: what was called; tensors among `args` and `kwargs` are in host memory.
            done: what it returned; a new tensor there is written to again at each replay.
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

        def again() -> None:
            found_args, found_kwargs = tree_map(lambda one: one.tensor() if isinstance(one, _Place) else one, where)
            results = tree_leaves(call(*found_args, **found_kwargs))
            for i, place in outputs:
                place.tensor().copy_(results[i])

        self._calls.append(again)

    def keep(self, allocated: Tensor) -> None:
        """Keeps what was allocated during the capture."""
        self._pool.append(allocated.untyped_storage())

    def replay(self) -> None:
        """Makes all calls again."""
        for call in self._calls:
            call()
