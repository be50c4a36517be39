"""The program: its commands by their names, and its exit."""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

from cyclopts import App

from .. import __version__
from .commands import configuration, models, router, running

#: What a full or broken disk says under the output of a command.
_DISK_TROUBLE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

app = App(
    name="llama-router",
    help="Many local models behind one always-ready API: spawns, swaps and streams their backends.",
    version=__version__,
)

app.command(router.serve)
app.command(router.demo)
app.command(router.install_unit)

app.command(configuration.check)
app.command(configuration.init)
app.command(configuration.import_llama_swap)
app.command(configuration.import_presets)

app.command(models.inspect)
app.command(models.import_, name="import")
app.command(models.pull)
app.command(models.list_models, name="list")
app.command(models.remove, name="rm")

app.command(running.ps)
app.command(running.status)
app.command(running.load)
app.command(running.unload)
app.command(running.reload)
app.command(running.rescan)
app.command(running.set_, name="set")
app.command(running.logs)


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit with its status."""
    try:
        sys.exit(app())
    except BrokenPipeError:  # whoever read the output has enough, e.g. `head`
        _drop_output()
        sys.exit(1)
    except OSError as exc:
        if exc.errno not in _DISK_TROUBLE or exc.filename is not None:
            raise
        _drop_output()
        sys.exit(f"error: cannot write the output: {exc.strerror}")


def _drop_output() -> None:
    """Send what is still to be written nowhere. Else Python complains of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
