"""What kernels and engine ask of the machine: which tensors kernels serve, pinned memory, streams, a launch.

Everything that depends on the hardware goes through the `active` runtime, so that a test or a benchmark can put another
one in its place with `use`: a pretended GPU, an emulator, or one that launches nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
INTERPRETED = False  # whether `@triton.jit` interprets, which is decided when it decorates
if HAS_TRITON:
    from triton import knobs

    INTERPRETED = bool(knobs.runtime.interpret)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Runtime:
    """The machine as it is: Triton's kernels on GPUs, or interpreted on the CPU under `TRITON_INTERPRET=1`."""

    plain_types: tuple[type, ...] = (Tensor, torch.nn.Parameter)  # a subclass may mean anything by its data

    def interpreted(self) -> bool:
        """Return whether the kernels run on CPU tensors."""
        return INTERPRETED

    def serves(self, tensor: Tensor) -> bool:
        """Return whether the kernels can update a tensor of this dtype on its device."""
        if not HAS_TRITON or tensor.dtype not in DTYPES:
            return False
        if self.interpreted():
            return tensor.device.type == "cpu"
        return tensor.device.type == "cuda" and self.why_not_served(tensor.device) == ""

    def why_not_served(self, device: torch.device) -> str:
        """Return why Triton's kernels do not run on a GPU; empty if they do."""
        if torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0):
            return ""
        major, minor = torch.cuda.get_device_capability(device)
        return f"this GPU is sm_{major}{minor}, and the kernels need sm_80 or newer"

    def watched(self) -> bool:
        """Return whether a dispatch mode watches every operator, as those of fake tensors and of `make_fx` do."""
        return torch._C._len_torch_dispatch_stack() > 0

    def capturing(self) -> bool:
        """Return whether work put on the current stream becomes part of a CUDA graph."""
        initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return bool(initialized and torch.cuda.is_current_stream_capturing())

    def has_streams(self, device: torch.device) -> bool:
        """Return whether work on a device is put on a stream, of which there may be several."""
        return device.type != "cpu"

    def stream_on(self, device: torch.device) -> int:
        """Return the current stream of a device; memory allocated on it may be reused on it as soon as it is freed."""
        return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0

    def pinned(self, host: Tensor) -> Tensor:
        """Return a copy in pinned memory, from which a copy to the device does not wait."""
        return host.pin_memory()

    def start(self, kernel: Any, launcher: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Launch a kernel and return what Triton's launcher returns, which is the compiled kernel.

        Args:
            kernel: what `@triton.jit` made, for those who want to know which one it is.
            launcher: the callable that starts it.
            args: all of the kernel's arguments, constexprs included.
            options: of the compiler.
        """
        return launcher(*args, **options)


active = Runtime()
AnyRuntime = TypeVar("AnyRuntime", bound=Runtime)


@contextmanager
def use(runtime: AnyRuntime) -> Iterator[AnyRuntime]:
    """Make another runtime the active one within a `with` block."""
    global active
    before, active = active, runtime
    try:
        yield runtime
    finally:
        active = before
