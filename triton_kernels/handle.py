"""Compiled kernels, kept by their callers, so that a launch need not look its kernel up again."""

from typing import Any

import triton

from . import runtime

# Triton's launcher costs about 12 µs, most of it to find the compiled kernel; calling that kernel itself costs 3 to 5.
# The direct call is the launcher's own last line, which is the same in these versions of Triton.
CAN_BYPASS_LAUNCHER = (3, 6) <= tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 10)


class CompiledKernels:
    """The compiled kernels of one caller, by what decides which specialization of the kernel is meant."""

    def __init__(self) -> None:
        self._compiled: dict[Any, Any] = {}

    def run(
        self, kernel: Any, programs: int, specialization: Any, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        """Launch a kernel.

        Args:
            kernel: what `@triton.jit` made.
            programs: size of the grid.
            specialization: a key that is equal for equal constexprs, dtypes and arguments that are None. Pointers must
                be 16-byte aligned or exempt from specialization, and integers exempt.
            args: all of the kernel's arguments, constexprs included.
            options: of the compiler.
        """
        compiled = self._compiled.get(specialization)
        if compiled is not None:
            runtime.active.start(kernel, compiled[(programs, 1, 1)], args, {})
            return
        compiled = runtime.active.start(kernel, kernel[(programs,)], args, options)
        if CAN_BYPASS_LAUNCHER and isinstance(compiled, triton.compiler.CompiledKernel):
            self._compiled[specialization] = compiled
