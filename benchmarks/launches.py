"""Stand-ins for the kernels that `launch` launches: one counts launches, one makes none."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch_gd._engine import backend
from torch_gd.triton_kernels import handle

KERNELS = ("update_kernel", "scalars_kernel")


@contextmanager
def _replaced(stand_ins: Mapping[str, object]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(patch.object(backend.launch, name, stand_in))
        yield


@contextmanager
def counted(make: bool = True) -> Iterator[Counter[str]]:
    """Counts the launches of each kernel; unless they are to be made, none is."""
    counts: Counter[str] = Counter()

    start = handle.start

    def counting(kernel: Any, *rest: Any) -> Any:
        counts[kernel.fn.__name__] += 1
        return start(kernel, *rest) if make else None

    with patch.object(handle, "start", counting):
        yield counts


class NoLaunch:
    """Takes a kernel's arguments, checks them, launches nothing."""

    def __init__(self, name: str, kernel: Any) -> None:
        self.name = name
        self.argument_names = list(kernel.arg_names)
        self.last: dict[str, Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            self.last = arguments = dict(zip(self.argument_names, args))
            if len(args) != len(self.argument_names) or options.keys() != backend.launch.LAUNCH_OPTIONS.keys():
                raise TypeError(f"{self.name} takes {self.argument_names}, and was given {len(args)} arguments")
            if self.name == "update_kernel" and (
                arguments["table"].shape != (2 + len(arguments["dtypes"]), arguments["n"])
                or arguments["chunks"].shape != (*grid, 2)
            ):
                raise ValueError(f"{self.name}: table or chunk map does not fit {arguments['n']} tensors, grid {grid}")

        return launch


@contextmanager
def none_made() -> Iterator[dict[str, NoLaunch]]:
    """Kernels serve CPU tensors too, and do nothing: what is left of a step is the host's part."""
    stand_ins = {name: NoLaunch(name, getattr(backend.launch, name)) for name in KERNELS}
    with _replaced(stand_ins), patch.object(backend, "serves", lambda tensor: True):
        yield stand_ins
