"""What the documentation says is so: the examples in the docstrings and in the README run."""

import doctest
import importlib
import io
import pkgutil
import re
import textwrap
import traceback
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import WithoutKernels
from libraries import lightning, transformers

import torch_gd
from torch_gd.triton_kernels.runtime import use

README = Path(__file__).parent.parent / "README.md"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.FAIL_FAST
NEEDS = {
    "torch_gd.distributed": lambda: pytest.skip("its examples need two ranks: test_distributed runs them"),
    "torch_gd.callbacks": lambda: (lightning(), transformers()),
    "torch_gd.callbacks.huggingface": transformers,
    "torch_gd.callbacks.lightning": lightning,
}
MODULES = [
    module.name
    for module in pkgutil.walk_packages(torch_gd.__path__, "torch_gd.")
    if not module.name.endswith(".__main__")
]
# Interpreted where there is no GPU; all other examples run as they do for a reader who has none.
ON_KERNELS = ("torch_gd.optimizers", "torch_gd.triton_kernels")
PYTHON_BLOCK = re.compile(r"^ *```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples write their files into a folder of their own, and draw the same random numbers in every run."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ["torch_gd", *MODULES])
def test_examples_in_docstrings(name: str) -> None:
    if name.startswith("torch_gd.triton_kernels"):
        pytest.importorskip("triton")
    if name in NEEDS:
        NEEDS[name]()
    docstrings = doctest.DocTestFinder(exclude_empty=False).find(importlib.import_module(name))
    with nullcontext() if name.startswith(ON_KERNELS) else use(WithoutKernels()):
        failures = run_examples(docstrings)
    if failures:
        pytest.fail("\n".join([f"fails in {', '.join(failures)}", *failures.values()]), pytrace=False)


def run_examples(docstrings: list[doctest.DocTest]) -> dict[str, str]:
    """Run each docstring's examples, up to the first that fails. Return, by docstring, what went wrong."""
    failures = {}
    for docstring in docstrings:
        report = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
        runner.run(docstring, out=report.write)
        failure = run_blocks(docstring.docstring or "", docstring.filename or "", docstring.lineno or 0)
        if report.getvalue() or failure:
            failures[docstring.name] = report.getvalue() + failure
    return failures


def run_blocks(text: str, file: str, lines_before: int = 0) -> str:
    """Run a text's ```python blocks, each after those before it. Return what went wrong, and where in the file.

    Python is told where the code stands in the file: Triton reads the source of a kernel there.
    """
    names: dict[str, object] = {"__name__": "example"}
    for block in PYTHON_BLOCK.finditer(text):
        first = lines_before + text.count("\n", 0, block.start(1))
        try:
            exec(compile("\n" * first + textwrap.dedent(block[1]), file, "exec"), names)
        except Exception as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
            line = lines[0] if lines else getattr(error, "lineno", first)
            return f"{file}, line {line}: {type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (">>> 1 + 1\n3\n", "Expected:\n    3\nGot:\n    2\n"),
        (">>> model\n", "NameError"),
        ("Guide.\n\n```python\nx = 1\n```\n```python\nx\nmodel\n```\n", "package.py, line 8: NameError"),
        ("```python\nx =\n```\n", "package.py, line 2: SyntaxError"),
    ],
)
def test_a_wrong_example_is_reported(example: str, expected: str) -> None:
    docstring = doctest.DocTestParser().get_doctest(example, {}, "package.function", "package.py", 0)
    docstring.docstring = example
    assert expected in run_examples([docstring])["package.function"]


def test_python_blocks_of_the_readme(torch_path: None) -> None:
    """Each block is complete, or goes on from those before it."""
    text = README.read_text(encoding="utf-8")
    assert PYTHON_BLOCK.search(text)
    failure = run_blocks(text, str(README))
    if failure:
        pytest.fail(failure, pytrace=False)
