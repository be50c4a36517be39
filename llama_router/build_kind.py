"""The kind of this installation: a data plane of pure Python, or one that mypyc has compiled."""

from __future__ import annotations

import sys
from importlib.machinery import SOURCE_SUFFIXES, PathFinder
from pathlib import Path
from typing import Final

from . import __version__

PURE: Final = "pure Python"
COMPILED: Final = "compiled"

#: A module that every compiled wheel has compiled; Python looks for it here.
_FOLDER: Final = Path(__file__).with_name("http1")
_MODULE: Final = "framing"


def build_kind() -> str:
    """Return `COMPILED` or `PURE`: what Python would import, which is not done for the answer.

    A compiled module is for one version of Python. Another one finds the source beside it.
    """
    found = PathFinder.find_spec(_MODULE, [str(_FOLDER)])
    origin = None if found is None else found.origin
    return PURE if origin is None or origin.endswith(tuple(SOURCE_SUFFIXES)) else COMPILED


def version_line() -> str:
    """Return the version with the kind of the build and the version of Python."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{__version__} ({build_kind()}, Python {python})"
