"""The exact versions of the service against pyproject.toml, without any network."""

import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FILE = ROOT / "requirements" / "service.txt"


def pinned() -> dict[str, list[Requirement]]:
    """Return the requirements of the file by name; some have one for each of several Pythons."""
    found: dict[str, list[Requirement]] = defaultdict(list)
    for entry in re.split(r"\n(?=[a-zA-Z0-9])", FILE.read_text()):
        if not entry.startswith("#"):
            requirement = Requirement(entry.partition(" \\\n")[0])
            found[canonicalize_name(requirement.name)].append(requirement)
    return found


def wanted() -> list[str]:
    """Return what the project and its build need, as pyproject.toml has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extra = project["project"]["optional-dependencies"]["embedded"]
    return [*project["project"]["dependencies"], *extra, *project["build-system"]["requires"]]


@pytest.mark.parametrize("text", wanted())
def test_each_dependency_has_a_version_that_fits(text: str) -> None:
    """After a change of pyproject.toml, run .ci/renew-service."""
    requirement = Requirement(text)
    pins = pinned()[canonicalize_name(requirement.name)]
    assert pins
    for pin in pins:
        [exactly] = pin.specifier
        assert exactly.operator == "=="
        assert requirement.specifier.contains(Version(exactly.version), prereleases=True)


def test_each_version_has_hashes() -> None:
    """Without them pip --require-hashes refuses the whole file."""
    for entry in re.split(r"\n(?=[a-zA-Z0-9])", FILE.read_text()):
        assert entry.startswith("#") or "--hash=sha256:" in entry, entry
