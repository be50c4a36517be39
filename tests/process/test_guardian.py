"""The guardian understands its router, and stays small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llama_router.process import guardian
from llama_router.process.guardian import Registry

pytestmark = pytest.mark.process


def test_register_understands_its_lines() -> None:
    """Lines may come in pieces, and nonsense is passed over."""
    registry = Registry()
    for piece in (b"+ 1 2 a\n+ 3", b" 4 b\n- 1", b"\n\xff\xfe\n+ x y z\n+ 5\n- \n- 99\n"):
        registry.feed(piece)
    assert registry.backends == {3: (4, "b")}
    assert not registry.stopped
    registry.feed(b".\n")
    assert registry.stopped


def test_guardian_imports_nothing_big() -> None:
    """It stays small: standard library only, and of that only what is needed."""
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "before = set(sys.modules); import llama_router.process.guardian\n"
        "print(*(set(sys.modules) - before))"
    )
    root = str(Path(guardian.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root], capture_output=True, check=True, text=True
    )
    ours = {name for name in run.stdout.split() if name.startswith("llama_router")}
    assert ours == {
        "llama_router",
        "llama_router.process",
        "llama_router.process.guardian",
        "llama_router.process.procfs",
        "llama_router.process.treekill",
    }
    assert not set(run.stdout.split()) & {"trio", "ctypes", "socket", "typing", "json"}
