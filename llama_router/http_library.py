"""httpx, imported without its own command line.

``httpx`` imports the command that it installs, and with it click, rich and Pygments, a third of
what a command such as ``ps`` takes; without click it does without. Import it from here.
"""

from __future__ import annotations

import sys
from typing import Final

_COMMAND: Final = "httpx._main"

# An import of a module that is None fails, as if it were not installed.
_hidden = _COMMAND not in sys.modules
if _hidden:
    sys.modules[_COMMAND] = None  # type: ignore[assignment]  # what the import system documents

import httpx  # noqa: E402 -- see above

if _hidden:
    del sys.modules[_COMMAND]

__all__ = ["httpx"]
