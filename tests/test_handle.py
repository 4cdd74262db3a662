"""A compiled kernel is called directly only where Triton's launcher would have found the same one."""

from typing import Any

import pytest

pytest.importorskip("triton")
from torch_gd.triton_kernels import handle


class Compiled:
    """A compiled kernel that records its launches."""

    def __init__(self, calls: list[Any], name: str) -> None:
        self.calls, self.name = calls, name

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args: self.calls.append((self.name, grid, args))


class Kernel:
    """A kernel that is compiled once for each second argument, as Triton compiles for a constexpr."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **options: Any) -> Compiled:
            self.calls.append(("launcher", grid, args, options))
            return Compiled(self.calls, f"compiled for {args[1]}")

        return launch


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(handle.triton.compiler, "CompiledKernel", Compiled)
    return []


def test_the_second_launch_skips_the_launcher(calls: list[Any]) -> None:
    kernels, kernel = handle.CompiledKernels(), Kernel(calls)
    kernels.run(kernel, 3, "a", (1, "a"), {"num_warps": 4})
    kernels.run(kernel, 5, "a", (2, "a"), {"num_warps": 4})
    kernels.run(kernel, 5, "b", (3, "b"), {"num_warps": 4})
    kernels.run(kernel, 7, "b", (4, "b"), {"num_warps": 4})
    assert calls == [
        ("launcher", (3,), (1, "a"), {"num_warps": 4}),
        ("compiled for a", (5, 1, 1), (2, "a")),
        ("launcher", (5,), (3, "b"), {"num_warps": 4}),
        ("compiled for b", (7, 1, 1), (4, "b")),
    ]


def test_unknown_versions_of_triton_always_use_the_launcher(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "CAN_BYPASS_LAUNCHER", False)
    kernels, kernel = handle.CompiledKernels(), Kernel(calls)
    for _ in range(3):
        kernels.run(kernel, 3, "a", (1, "a"), {})
    assert [call[0] for call in calls] == ["launcher"] * 3


def test_a_launcher_that_returns_nothing_is_asked_each_time(calls: list[Any]) -> None:
    """The interpreter's launcher returns nothing, so there is no compiled kernel to call directly."""

    class Interpreted:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *args, **options: calls.append(args)

    kernels = handle.CompiledKernels()
    kernels.run(Interpreted(), 1, "a", (1,), {})
    kernels.run(Interpreted(), 1, "a", (2,), {})
    assert calls == [(1,), (2,)]
