"""How a kernel is started. Every launch of this package goes through `start`, where it can be counted."""

from typing import Any

import triton

# Triton's launcher costs about 12 µs, most of it to find the compiled kernel again; calling that directly, 3 to 5. The
# call is the launcher's own last line, the same in these versions; in others every launch takes the ordinary way.
KEEPS = (3, 6) <= tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 10)


class Handles:
    """The compiled kernels of one caller, by whatever of its arguments decides which one it is."""

    def __init__(self) -> None:
        self._compiled: dict[Any, Any] = {}

    def run(self, kernel: Any, programs: int, which: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Launches `programs` programs.

        Args:
            kernel: what `@triton.jit` made.
            programs: size of the grid.
            which: equal for equal specialisations, that is, for equal constexprs and the same arguments None. Pointers
                must be 16-byte aligned or exempt from specialisation, and integers exempt.
            args: all of the kernel's, constexprs included.
            options: of the compiler.
        """
        compiled = self._compiled.get(which)
        if compiled is not None:
            start(kernel, compiled[(programs, 1, 1)], args, {})
            return
        compiled = start(kernel, kernel[(programs,)], args, options)
        if KEEPS and isinstance(compiled, triton.compiler.CompiledKernel):
            self._compiled[which] = compiled


def start(kernel: Any, launcher: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """One launch of `kernel`, by whichever launcher; returns what Triton returns, the compiled kernel."""
    return launcher(*args, **options)
