"""Build the API reference and the guides from the docstrings: `python .ci/docs.py FOLDER`. Any warning is an error.

A page shows one package or module: its docstring, which is the guide, and the public names that are defined in it. A
name that several packages offer is described once, where it is defined, and the first page lists them all. What comes
from torch is left to torch's own pages. Errors are what pdoc complains of, a package without a page, and a dotted name
of this package that leads nowhere.
"""

import importlib.util
import inspect
import pkgutil
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pdoc
from markupsafe import Markup
from pdoc.doc import Class, Doc, Module

ROOT = "torch_gd"
DESIGN = "torch_gd._engine"  # private: its docstring is the design guide, its names are nobody's to use
PAGES = (
    ROOT,
    "torch_gd.optimizers",
    "torch_gd.optimizers.release",
    "torch_gd.clipping",
    "torch_gd.lr_scheduler",
    "torch_gd.distributed",
    "torch_gd.range_test",
    "torch_gd.convergence",
    "torch_gd.callbacks",
    "torch_gd.callbacks.lightning",
    "torch_gd.callbacks.huggingface",
    "torch_gd.plot",
    DESIGN,
    "torch_gd.triton_kernels",
    "torch_gd.triton_kernels.rules",
    "torch_gd.triton_kernels.rule",
    "torch_gd.triton_kernels.layer_rules",
    "torch_gd.triton_kernels.codecs",
    "torch_gd.triton_kernels.layers",
    "torch_gd.triton_kernels.multi_tensor",
    "torch_gd.triton_kernels.reductions",
    "torch_gd.triton_kernels.launch",
    "torch_gd.triton_kernels.measure",
    "torch_gd.triton_kernels.table",
    "torch_gd.triton_kernels.handle",
    "torch_gd.triton_kernels.runtime",
)
CSS = """
.pdoc .signature.multiline, .pdoc .signature .param { white-space: pre-wrap; }  /* long types wrap */
nav.pdoc h2 { font-size: 1.2rem; }
"""


def page_of(doc: Doc[Any]) -> str | None:
    """Return the name of the page that describes a member, or None if it is not this package's.

    That is where it is defined. What is defined in private stands with the package that offers it.
    """
    defined_in = f"{doc.taken_from[0]}."
    page = max((page for page in PAGES if defined_in.startswith(f"{page}.")), key=len, default=None)
    if page != DESIGN:
        return page
    return next(page for page in (*PAGES[1:], ROOT) if doc.name in getattr(sys.modules[page], "__all__", ()))


def is_described_by_base(doc: Doc[Any]) -> bool:
    """Return whether a member has no words of its own, only those of the method that it overrides."""
    return doc.kind == "function" and doc.name != "__init__" and bool(doc.docstring) and not doc.obj.__doc__


def load_pages() -> dict[str, Module]:
    """Load the modules, each reduced to what its page shows."""
    for name in PAGES:
        show_kernels_as_functions(importlib.import_module(name))
    pages = {name: Module.from_name(name) for name in PAGES}
    every_name = dict(pages[ROOT].members)
    for name, module in pages.items():
        from_torch = [f"`{key}`" for key, doc in module.members.items() if page_of(doc) is None]
        module.members = {key: doc for key, doc in module.members.items() if page_of(doc) == name}
        for key, doc in module.members.items():
            if isinstance(doc, Class):
                doc.members = {label: each for label, each in doc.members.items() if not is_described_by_base(each)}
            elif doc.taken_from[1] != key and doc.taken_from[1] in module.members:
                doc.docstring = f"Another name of `{doc.taken_from[1]}`."
        module.submodules = [other for key, other in pages.items() if key.rpartition(".")[0] == name]
        if from_torch:
            module.docstring += f"\n\nAlso here, as torch has them: {', '.join(from_torch)}.\n"
    pages[DESIGN].members = {}
    pages[DESIGN].docstring += "\n@public"  # pdoc's word for showing what begins with an underscore; it is not printed
    pages[ROOT].docstring += index(pages, every_name)
    return pages


def show_kernels_as_functions(module: ModuleType) -> None:
    """Replace what `triton.jit` made by the function that it was given, whose arguments and source can be shown."""
    for name, value in list(vars(module).items()):
        if type(value).__module__.startswith("triton.") and inspect.isfunction(getattr(value, "fn", None)):
            setattr(module, name, value.fn)


def index(pages: dict[str, Module], names: dict[str, Doc[Any]]) -> str:
    """Return a list of the names that a package offers and other pages describe, in Markdown."""
    lines = []
    for page in PAGES[1:]:
        if page.rpartition(".")[0] == ROOT:
            lines += ["", f"**`{page}`** {first_sentence(pages[page])}", ""]
            described = [pages[page].members[name] for name, doc in names.items() if page_of(doc) == page]
            lines += [f"- `{doc.name}` {first_sentence(doc)}" for doc in described]
    return "\n\n## All names\n" + "\n".join(lines) + "\n"


def first_sentence(doc: Doc[Any]) -> str:
    paragraph = doc.docstring.replace("@public", "").strip().split("\n\n")[0]
    return re.split(r"(?<=\.)(?<!\bal\.) ", " ".join(paragraph.split()))[0].removesuffix(":")


def link_to_pages(pages: dict[str, Module]) -> None:
    """Have names in code font lead to their page, from every page and without their package's name, too."""
    homes = {name: page for page, module in pages.items() for name in module.members}
    linkify = pdoc.render.env.filters["linkify"]

    @jinja2.pass_context
    def linkify_all(context: jinja2.runtime.Context, code: str, namespace: str = "", shorten: bool = True) -> Markup:
        def link(match: re.Match[str]) -> str:
            here, name = context["module"].modulename, match["name"]
            if f"{here}.{name}" in pages:
                target = pdoc.render_helpers.relative_link(here, f"{here}.{name}")
            elif name in homes:
                target = f"{pdoc.render_helpers.relative_link(here, homes[name])}#{name}"
            else:
                return match[0]
            return f'<code><a href="{target}">{match["text"]}</a></code>'

        html = str(linkify(context, code, namespace, shorten))
        return Markup(re.sub(r"<code>(?P<text>(?:torch_gd\.)?(?P<name>\w+)(?:\(\))?)</code>", link, html))

    pdoc.render.env.filters["linkify"] = linkify_all


def walk(doc: Doc[Any]) -> Iterator[Doc[Any]]:
    yield doc
    if isinstance(doc, Module | Class):
        for member in doc.own_members:
            yield from walk(member)


def check_pages(pages: dict[str, Module]) -> None:
    """Warn of every public package or kernel module without a page."""
    for parent in (ROOT, "torch_gd.triton_kernels"):
        for found in pkgutil.iter_modules(pages[parent].obj.__path__, f"{parent}."):
            public = not found.name.rpartition(".")[2].startswith("_")
            if public and (found.ispkg or parent != ROOT) and found.name not in pages:
                warnings.warn(f"{found.name} has no page: name it in PAGES", stacklevel=1)


def check_names(pages: dict[str, Module]) -> None:
    """Warn of every dotted name of this package in a docstring that leads nowhere."""
    for doc in (doc for page in pages.values() for doc in walk(page)):
        for name in sorted(set(re.findall(rf"\b{ROOT}(?:\.\w+)+", doc.docstring))):
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError):
                warnings.warn(f"the docstring of {doc.fullname} names {name}, which does not exist", stacklevel=1)


def main(folder: Path) -> None:
    if importlib.util.find_spec("torchvision") is not None:  # which Lightning imports, and which may need help to
        sys.path.insert(0, "examples")
        importlib.import_module("torchvision_on_cpu")
    for name in ("lightning.pytorch", "transformers"):
        importlib.import_module(name)  # outside: what other libraries warn of when imported is not ours to mend
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "(?s).*'array.array' is not subscriptable")  # which it is from Python 3.12 on
        pages = load_pages()
        check_pages(pages)
        check_names(pages)
        pdoc.render.configure(docformat="google", math=True)
        assert pdoc.render.env.loader is not None
        pdoc.render.env.loader = jinja2.ChoiceLoader([jinja2.DictLoader({"custom.css": CSS}), pdoc.render.env.loader])
        link_to_pages(pages)
        files = {f"{name.replace('.', '/')}.html": pdoc.render.html_module(page, pages) for name, page in pages.items()}
        files["index.html"] = pdoc.render.html_index(pages)
        files["search.js"] = pdoc.render.search_index(pages)
    if complaints:
        sys.exit("\n".join(f"{each.category.__name__}: {each.message}" for each in complaints))
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{len(pages)} pages, from {folder / 'index.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
