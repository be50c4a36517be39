"""Counts how often a file is opened, by whatever function."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def count_opens(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[str]:
    """Return a list to which every later opening of *path* in this process is added."""
    opened: list[str] = []

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def open_(file: Any, *args: Any, **options: Any) -> Any:
            if not isinstance(file, int) and Path(os.fsdecode(file)) == path:
                opened.append(function.__name__)
            return function(file, *args, **options)

        return open_

    monkeypatch.setattr(os, "open", counting(os.open))
    monkeypatch.setattr(io, "open", counting(io.open))
    monkeypatch.setattr(builtins, "open", counting(builtins.open))
    return opened
