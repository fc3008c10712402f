"""What the images install is locked, complete, and what pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
REQUIREMENTS = ROOT / "deploy" / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMES = ("build", "gateway", "launcher", "launcher-demo", "launcher-kubernetes")
ONLY_WITHOUT_CONTAINERS = {"iotcore"}
"""The broker of `nrp up`."""


def locked(name: str) -> dict[str, str]:
    """The versions in a lock file, each with at least one hash."""
    found = {}
    for entry in re.split(r"\n(?=[a-z])", (REQUIREMENTS / f"{name}.txt").read_text()):
        if match := re.match(r"([a-z0-9-]+)(?:\[[a-z,]+\])?==([^\s;]+)", entry):
            assert "--hash=sha256:" in entry, entry
            found[match[1]] = match[2]
    return found


def required(*extras: str) -> dict[str, Requirement]:
    """What pyproject.toml asks for, or its extras when some are named, by name."""
    texts = [text for extra in extras for text in PROJECT["optional-dependencies"][extra]] or PROJECT["dependencies"]
    return {canonicalize_name(each.name): each for each in map(Requirement, texts)}


def test_everything_that_the_services_need_is_in_one_of_the_images() -> None:
    needed = (required() | required("postgresql")).keys() - ONLY_WITHOUT_CONTAINERS
    assert needed - (locked("gateway").keys() | locked("launcher").keys()) == set()
    simulators = required("mujoco", "nest", "gym").keys()
    assert simulators - locked("launcher-demo").keys() == set()
    assert required("kubernetes").keys() - locked("launcher-kubernetes").keys() == set()


@pytest.mark.parametrize("name", NAMES)
def test_locked_versions_are_those_that_the_project_allows(name: str) -> None:
    allowed = required() | required("postgresql", "mujoco", "nest", "gym", "kubernetes")
    for package, version in locked(name).items():
        assert package not in allowed or version in allowed[package].specifier, package


def test_images_agree_on_versions() -> None:
    agreed: dict[str, str] = {}
    for name in NAMES:
        for package, version in locked(name).items():
            assert agreed.setdefault(package, version) == version, package


def test_no_registry_is_named() -> None:
    for path in REQUIREMENTS.iterdir():
        assert "://" not in path.read_text(), path.name
