"""What a user installs: one top-level package, kernels included, from any kind of checkout."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import torch_gd

for tool in ("build", "pip", "setuptools"):
    if find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed", allow_module_level=True)

ROOT = Path(__file__).parent.parent
LINK = Path("torch_gd", "triton_kernels")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["symlink", "text file"])
def checkout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, as Git makes it where symlinks are on, and where they are off."""
    source = tmp_path_factory.mktemp("source") / "torch_gd"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    (source / LINK).unlink()
    if request.param == "symlink":
        (source / LINK).symlink_to(Path("..", "triton_kernels"), target_is_directory=True)
    else:
        (source / LINK).write_text("../triton_kernels")
    return source


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist, and of the wheel that is built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, checkout)
    return out


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The interpreter of an environment that has what this one has, but for this one's torch_gd.

    A folder in a .pth file is searched for modules; the .pth files in that folder, an editable install's, are not read.
    """
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site) / "those_of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    return python


def install(python: Path, *what: str | Path) -> None:
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed", *what)


def smoke_test(python: Path) -> str:
    return run(python, "-I", ROOT / "tests" / "smoke.py", cwd=python.parent)


def modules(folder: Path, prefix: str) -> set[str]:
    return {f"{prefix}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")}


def test_the_wheel_holds_one_package_and_all_of_it(built: Path) -> None:
    """Triton's own repository installs a `triton_kernels`; ours must not overwrite it.

    A package that is missing here is missing from `tool.setuptools.packages` in pyproject.toml.
    """
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    kernels = modules(ROOT / "triton_kernels", "torch_gd/triton_kernels")
    assert found.keys() == modules(ROOT / "torch_gd", "torch_gd") | kernels | {"torch_gd/py.typed"}
    for name, text in found.items():
        source = ROOT / name.replace("torch_gd/triton_kernels/", "triton_kernels/")
        assert text == source.read_bytes(), name


def test_the_sdist_holds_the_kernels_as_files(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert all(member.isfile() or member.isdir() for member in members.values())
    assert modules(ROOT / "triton_kernels", "triton_kernels") <= members.keys()
    assert {"README.md", "LICENSE", "pyproject.toml"} <= members.keys()


@pytest.mark.parametrize("checkout", ["text file"], indirect=True)  # the wheel of the other holds the same bytes
def test_the_wheel_works(built: Path, environment: Path) -> None:
    (wheel,) = built.glob("*.whl")
    install(environment, wheel)
    assert str(environment.parent.parent) in smoke_test(environment)


def test_an_editable_install_works(checkout: Path, environment: Path) -> None:
    install(environment, "--editable", checkout)
    assert str(checkout) in smoke_test(environment)


def test_the_citation_names_the_version() -> None:
    assert f"\nversion: {torch_gd.__version__}\n" in (ROOT / "CITATION.cff").read_text()
