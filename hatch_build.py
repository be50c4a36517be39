"""Compiles the data plane into the wheel if ``LLAMA_ROUTER_COMPILE=1``; else the wheel is pure.

mypyc turns the modules that pyproject.toml lists into one shared library. Their sources stay in
the wheel, for tracebacks and for people; Python imports the compiled module beside a source.
An editable install is always pure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: The name of the shared library, as a module, without mypyc's suffix.
LIBRARY = "llama_router.data_plane"

#: What compiles. mypyc is a part of mypy. Its bugs depend on its version, so this is the one that
#: the tests ran with: see docs/contributing/compiled-builds.md.
COMPILERS = ("mypy==2.4.1", "setuptools>=75")

#: Runs in the folder with the copy of the sources: ``PROGRAM OUT MODULE...``.
PROGRAM = """
import sys
from mypyc.build import mypycify
from setuptools import setup

out, library, *modules = sys.argv[1:]
flags = ["--ignore-missing-imports", "--follow-imports=silent"]
setup(
    name="compiled",
    packages=[],
    py_modules=[],
    script_args=["--quiet", "build_ext", "--build-lib", out, "--build-temp", "build/objects"],
    ext_modules=mypycify(
        [*flags, *modules], opt_level="3", debug_level="0", group_name=library, target_dir="build/c"
    ),
)
"""


def asked() -> bool:
    """Return whether the environment asks for a compiled wheel."""
    return os.environ.get("LLAMA_ROUTER_COMPILE") == "1"


class CompiledDataPlane(BuildHookInterface):
    """Adds the shared library and one small module for each compiled source to the wheel."""

    #: The folder in which it was compiled.
    _scratch: Path | None = None

    def dependencies(self) -> list[str]:
        """Return what the build needs: nothing more, or the compilers.

        The dependencies of the program are among them: without them mypyc would know less about
        types, and compile another program.
        """
        if not asked():
            return []
        return [*COMPILERS, *self.metadata.core.dependencies]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the results and the platform in *build_data*."""
        if version == "editable" or not asked():
            return
        self._scratch = scratch = Path(tempfile.mkdtemp(prefix="llama-router-build-"))
        # A copy, away from pyproject.toml: it is not setuptools' own, nor its settings for mypy.
        shutil.copytree(
            Path(self.root) / "llama_router",
            scratch / "llama_router",
            ignore=shutil.ignore_patterns("__pycache__", "*.so"),
        )
        out = scratch / "out"
        command = [sys.executable, "-c", PROGRAM, str(out), LIBRARY, *self.config["modules"]]
        subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        for module in out.rglob("*.so"):
            strip = shutil.which("strip")
            if strip is not None:
                subprocess.run([strip, "--strip-unneeded", module], check=True)
            build_data["force_include"][str(module)] = str(module.relative_to(out))
        build_data["infer_tag"] = True
        build_data["pure_python"] = False

    def finalize(self, *_: object) -> None:
        """Remove what was made on the way."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
