"""Versions of the programs and of the machine that measured figures belong to."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

import llama_router

from .programs import ROOT

_LIMIT_S = 30


def machine() -> dict[str, str]:
    """Return the versions that every report names: this checkout, Python, kernel and CPU."""
    return {
        "llama-router": router(),
        "Python": python(),
        "kernel": f"{platform.system()} {platform.release()}",
        "CPU": f"{os.cpu_count()} x {cpu()}",
    }


def lines(programs: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield one line for each version: of the machine, then of the *programs* measured on it."""
    for name, version in (machine() | dict(programs or {})).items():
        yield f"{name}: {version}"


def router() -> str:
    """Return the version of this checkout, with its commit if git knows it."""
    commit = of_program("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    known = not commit.startswith("unknown")
    return f"{llama_router.__version__}, commit {commit}" if known else llama_router.__version__


def python() -> str:
    """Return the version of this Python and how it was built."""
    return (
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"{platform.python_compiler()}, {optimization()}, {sys.executable}"
    )


def optimization() -> str:
    """Return whether this Python was built with profile-guided optimization.

    A distribution may run the steps of it by hand; the build then leaves no trace of them.
    """
    arguments = shlex.split(str(sysconfig.get_config_var("CONFIG_ARGS") or ""))
    if "--enable-optimizations" in arguments:
        lto = any(argument.startswith("--with-lto") for argument in arguments)
        return "built with profile-guided optimization" + (" and LTO" if lto else "")
    if "--prefix=/usr" in arguments:
        return "built by the distribution"
    return "built without profile-guided optimization"


def cpu() -> str:
    """Return the model of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def of_program(*argv: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the line in which a program names its version, or "unknown" and the reason.

    Of several lines it is the first with the word "version", else the first of all.
    """
    try:
        result = subprocess.run(
            argv,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({error})"
    said = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    named = [line for line in said if "version" in line.lower()]
    return (named or said or ["unknown (no output)"])[0]
