"""What a start imports: nothing heavy that it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: The control plane, which is loaded once the router serves, and what only it needs.
CONTROL = {"quart", "flask", "werkzeug", "jinja2", "hypercorn", "h2", "wsproto", "asyncio"}

#: What only single commands need.
COMMANDS = {"rich", "pygments", "click", "huggingface_hub", "tomlkit", "yaml", "gguf", "numpy"}


def imported(*modules: str) -> set[str]:
    """Return the outermost packages that are imported together with *modules*."""
    names = ", ".join(modules)
    code = f"import sys, {names}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_a_router_is_ready_before_the_control_plane_is_loaded() -> None:
    """`serve` imports neither Quart nor what it brings along, nor what commands need."""
    found = imported(
        "llama_router.cli.app",
        "llama_router.cli.commands.serve",
        "llama_router.cli.router_process",
    )
    assert "trio" in found
    assert found & (CONTROL | COMMANDS | {"httpx", "email", "zipfile"}) == set()


def test_the_control_plane_imports_no_command() -> None:
    """Nor does it import httpx, 2 MiB: looks at the hub and downloads have their own processes."""
    found = imported("llama_router.control.web.app", "llama_router.control.web.server")
    assert found & {"rich", "pygments", "huggingface_hub", "gguf", "numpy", "yaml"} == set()
    assert found & {"httpx", "httpcore", "certifi"} == set()


@pytest.mark.parametrize("module", ["operate", "model_logs", "ps"])
def test_commands_for_a_running_router_import_no_router(module: str) -> None:
    """Nor httpx, which would take as long as all else: single requests need none."""
    found = imported("llama_router.cli.app", f"llama_router.cli.commands.{module}")
    assert "http" in found
    assert found & (CONTROL | COMMANDS | {"trio", "cattrs", "httpx", "httpcore"}) == set()


def test_help_imports_no_command() -> None:
    """The list of commands is there before any of them is imported."""
    found = imported("llama_router.cli.app")
    assert found & (CONTROL | COMMANDS | {"httpx", "trio", "cattrs"}) == set()


def test_httpx_is_complete_without_its_command() -> None:
    """Its fallback for a missing click is taken, and nothing stays hidden."""
    code = (
        "import sys; from llama_router.http_library import httpx; import click; "
        "assert 'httpx._main' not in sys.modules; import httpx._main; httpx.Client().close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
