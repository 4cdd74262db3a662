"""Take steps through Triton's own launcher, with the library built from `fake_cuda.c` in place of the CUDA driver.

Every kernel parameter is compared with what the driver received. For each launch a line of JSON is printed: the case,
the kernel, and "launcher" or "direct" for how it was launched. Run with that library first in LD_LIBRARY_PATH.
"""

import ctypes
import json
import struct
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils
from triton.runtime import driver

import torch_gd
from torch_gd.triton_kernels.runtime import Runtime, use

SIZES = (5, 3000, 1, 1025)
STEPS = 4
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "nag": ("NAG", {}),
    "adagrad": ("Adagrad", {}),
    "rmsprop": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "adam": ("Adam", {"amsgrad": True}),
    "adamw": ("AdamW", {}),
    "nadam": ("NAdam", {}),
    "products": ("NAdam", {"capturable": True}),
    "l1": ("AdamW", {"l1": 0.1}),
    "capturable": ("RMSprop", {"capturable": True}),
    "tensor lr": ("AdamW", {"lr": torch.tensor(1e-3), "fused": True}),
    "scaler": ("AdamW", {"fused": True}),
    "by value": ("SGD", {"clip": torch_gd.ClipByValue(1.0)}),
    "by norm": ("SGD", {"clip": torch_gd.ClipByGlobalNorm(1.0)}),
    "by norm 3": ("SGD", {"clip": torch_gd.ClipByGlobalNorm(1.0, norm_type=3.0)}),
    "by norm inf": ("SGD", {"clip": torch_gd.ClipByGlobalNorm(1.0, norm_type=float("inf"))}),
    "by norm, skipping": ("Adam", {"clip": torch_gd.ClipByGlobalNorm(1.0, skip_nonfinite=True)}),
    "adaptive": ("SGD", {"clip": torch_gd.ClipAdaptive(0.01)}),
    "adaptive, scaler": ("SGD", {"clip": torch_gd.ClipAdaptive(0.01), "fused": True}),
}


class Launch(ctypes.Structure):
    """A launch that the driver received; the same struct as in `fake_cuda.c`."""

    _fields_ = [
        ("name", ctypes.c_char * 64),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint),
        ("parameters", ctypes.c_uint64 * 16),
    ]


class FakeDriver(CudaDriver):
    """Triton's CUDA driver, with constants in place of what it asks torch.cuda."""

    def __init__(self) -> None:
        self.utils = CudaUtils()
        self.launcher_cls = CudaLauncher
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0
        self.get_device_capability = lambda device: (9, 0)


def bits(value: Tensor | float) -> int:
    """Return the bits that the launcher hands over for a parameter: an address, an int32 or a float32."""
    if isinstance(value, Tensor):
        return value.data_ptr()
    return int.from_bytes(struct.pack("<f" if isinstance(value, float) else "<i", value), "little")


def main() -> None:
    driver.set_active(FakeDriver())
    fake = ctypes.CDLL("libcuda.so.1")
    launches = (Launch * 4096).in_dll(fake, "launches")
    launched = ctypes.c_int.in_dll(fake, "launched")
    parameters_of_next = ctypes.c_int.in_dll(fake, "parameters_of_next")
    ordinary: list[str] = []
    run = triton.JITFunction.run
    case = ""

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        ordinary.append(self.fn.__name__)
        return run(self, *args, **options)

    class Checked(Runtime):
        """A machine whose kernels serve every tensor; each launch is compared with what the driver received."""

        def serves(self, tensor: Tensor) -> bool:
            return True

        def start(self, kernel: Any, launcher: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
            given = [arg for p, arg in zip(kernel.params, args) if not p.is_constexpr and arg is not None]
            parameters_of_next.value = len(given)
            before, asked = launched.value, len(ordinary)
            returned = super().start(kernel, launcher, args, options)
            one = launches[before]
            masks = [2**64 - 1 if isinstance(arg, Tensor) else 2**32 - 1 for arg in given]
            handed = [found & mask for found, mask in zip(one.parameters, masks)]
            if launched.value != before + 1 or handed != list(map(bits, given)):
                raise AssertionError(f"{kernel.fn.__name__} was to be launched with {given}, and was with {handed}")
            print(json.dumps([case, one.name.decode(), "direct" if len(ordinary) == asked else "launcher"]))
            return returned

    triton.JITFunction.run = counted
    with use(Checked()):
        for case, (name, options) in CASES.items():
            params = [torch.randn(size).requires_grad_() for size in SIZES]
            optimizer = getattr(torch_gd, name)(params, **options)
            for _ in range(STEPS):
                for p in params:
                    p.grad = torch.randn_like(p)
                if "scaler" in case:
                    optimizer.grad_scale, optimizer.found_inf = torch.tensor([2.0]), torch.tensor([0.0])
                optimizer.step()
        case = "norms"
        torch_gd.clipping.tensor_norms([torch.randn(size) for size in SIZES])


if __name__ == "__main__":
    main()
