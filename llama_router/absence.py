"""Whether a file is missing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

_NOTHING_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


def is_absent(path: str | Path) -> bool:
    """Say whether there is surely nothing at *path*. Blocks.

    Never raises: what cannot be looked at (no permission, a stale network file system) may
    be there; whoever opens it will be told what is wrong.
    """
    try:
        os.stat(path)  # noqa: PTH116 -- it takes strings, too
    except OSError as exc:
        return exc.errno in _NOTHING_THERE
    except ValueError:  # no file can have such a name
        return True
    return False
