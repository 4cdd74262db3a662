"""Count the launches of a step, or make none of them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor

from torch_gd._engine import backend
from torch_gd.triton_kernels import runtime
from torch_gd.triton_kernels.runtime import Runtime


@contextmanager
def counted(make: bool = True) -> Iterator[Counter[str]]:
    """Count the launches of each kernel by the active runtime; unless they are to be made, none is."""
    counts: Counter[str] = Counter()
    start = runtime.active.start

    def count(kernel: Any, *rest: Any) -> Any:
        counts[kernel.fn.__name__] += 1
        return start(kernel, *rest) if make else None

    with patch.object(runtime.active, "start", count):
        yield counts


class WithoutLaunches(Runtime):
    """A machine whose kernels serve every tensor and do nothing: what is left of a step is the host's part.

    A launch only remembers its arguments, so that it costs the step as little as can be; `arguments` checks them.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}

    def serves(self, tensor: Tensor) -> bool:
        return True

    def start(self, kernel: Any, launcher: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._last[kernel.fn.__name__] = kernel, args, options

    def arguments(self, name: str) -> dict[str, Any]:
        """Return the arguments of a kernel's last launch by name, once it is clear that it could have been made."""
        kernel, args, options = self._last[name]
        names = kernel.arg_names
        if len(args) != len(names) or options.keys() != backend.launch.LAUNCH_OPTIONS.keys():
            raise TypeError(f"{name} takes {names}, and was given {len(args)} arguments")
        arguments = dict(zip(names, args))
        if name == "update_kernel" and (
            arguments["table"].shape != (2 + arguments["COLUMNS"], arguments["n"])
            or arguments["chunks"].shape[1:] != (2,)
        ):
            raise ValueError(f"{name}: table or chunk map does not fit {arguments['n']} tensors")
        return arguments
