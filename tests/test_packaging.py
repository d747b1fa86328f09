"""What a reader installs: the wheel, its metadata, the tested versions and the conda environment."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import resnet_tutorial

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()
}
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
ALL = [*CORE, *(requirement for extra in EXTRAS.values() for requirement in extra)]

PLATFORMS = {
    "Linux": {"sys_platform": "linux", "os_name": "posix", "platform_machine": "x86_64"},
    "macOS": {"sys_platform": "darwin", "os_name": "posix", "platform_machine": "arm64"},
    "Windows": {"sys_platform": "win32", "os_name": "nt", "platform_machine": "AMD64"},
}
PYTHONS = ("3.11.2", "3.11.9", "3.12.1", "3.13.0")


def environment(platform: str, python: str) -> dict[str, str]:
    version = ".".join(python.split(".")[:2])
    return (
        default_environment()
        | PLATFORMS[platform]
        | {"python_full_version": python, "python_version": version}
    )


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built without a network from a copy, so that nothing is written into the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "resnet_tutorial", source / "resnet_tutorial", ignore=ignored)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('out'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return source / "out" / done.stdout.splitlines()[-1]


def test_the_wheel_holds_the_package_and_its_assets(wheel):
    """An asset that is missing from the wheel is missed only by those who do not work in a clone."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "resnet_tutorial"
    files = [*package.rglob("*.py"), package / "py.typed", *(package / "assets").rglob("*")]
    assert names == {path.relative_to(ROOT).as_posix() for path in files if path.is_file()}
    assert wheel.stat().st_size < 12 * 2**20, "the wheel has grown beyond a quick download"


def test_the_wheel_works_from_any_directory(wheel, tmp_path):
    """Paths relative to the checkout work only in the checkout."""
    package = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(package)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import resnet_tutorial; print(resnet_tutorial.__file__);"
        "from resnet_tutorial.data import load_sample; print(*map(len, load_sample()));"
        "from resnet_tutorial.plotting import use_book_style; use_book_style()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    where, sizes = done.stdout.splitlines()
    assert Path(where).is_relative_to(package)
    assert sizes == "2000 1000"
    assert list(elsewhere.iterdir()) == []


def test_the_wheel_says_what_it_needs(wheel):
    """Metadata that pins a version would replace the PyTorch that Colab brings."""
    archive = zipfile.ZipFile(wheel)
    files = {name.split(".dist-info/")[1]: name for name in archive.namelist() if ".dist-info/" in name}
    metadata = archive.read(files["METADATA"]).decode()
    needed = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.M)]
    core = [requirement for requirement in needed if requirement.marker is None]
    assert {requirement.name for requirement in core} == {requirement.name for requirement in CORE}
    assert "licenses/LICENSE" in files
    assert (
        "resnet-tutorial = resnet_tutorial.__main__:main" in archive.read(files["entry_points.txt"]).decode()
    )


def test_the_command_exists():
    """The console script of the metadata must lead to a function."""
    module, function = PROJECT["scripts"]["resnet-tutorial"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("requirement", ALL, ids=str)
def test_lower_bounds_only(requirement):
    """Version 2 of jupyter-book is another program; nothing else has a reason for an upper bound."""
    allowed = {">=", "<"} if requirement.name == "jupyter-book" else {">="}
    assert {specifier.operator for specifier in requirement.specifier} == allowed
    assert requirement.url is None


def test_the_conda_environment_installs_the_package_by_its_metadata():
    """Two lists of dependencies drift apart; this file may name Python and pip, and nothing else."""
    config = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert config["channels"] == ["conda-forge"]
    conda = [entry for entry in config["dependencies"] if isinstance(entry, str)]
    assert {re.split(r"[=<>]", entry)[0] for entry in conda} == {"python", "pip"}
    (pip,) = (entry["pip"] for entry in config["dependencies"] if isinstance(entry, dict))
    constraint, package = pip
    assert (ROOT / constraint.removeprefix("-c ")).samefile(ROOT / "constraints.txt")
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", package)[1].split(",")
    assert set(extras) == set(EXTRAS)  # so that ALL is what it installs
    reached = {requirement.name for requirement in ALL}
    assert {"torch", "torchvision", "matplotlib", "jupyter-book", "jupyterlab", "nbmake", "pytest"} <= reached
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.search(r"^EXTRAS := (\S+)$", makefile, re.M)[1].split(",")) == set(EXTRAS)


def test_constraints_are_plain_pins():
    """pip refuses extras in a constraints file, and an index address would tie readers to our machine."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text
    for requirement in constraints():
        assert not requirement.extras and requirement.url is None
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_constraints_pin_every_direct_dependency_once(platform, python):
    """A tested version outside our own bounds, or none at all, makes `make book` a matter of luck."""
    pins: dict[str, str] = {}
    for requirement in constraints():
        if requirement.marker is None or requirement.marker.evaluate(environment(platform, python)):
            name = canonicalize_name(requirement.name)
            assert name not in pins, f"{name} is pinned twice"
            pins[name] = next(iter(requirement.specifier)).version
    for requirement in ALL:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_one_version_number():
    """A citation of version 0.1 for a package that calls itself 0.2 helps nobody."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == citation["version"] == resnet_tutorial.__version__
