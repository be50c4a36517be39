"""The program: its commands by name, and its exit status."""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final

import attrs
from cyclopts import App, Group

from ..build_kind import version_line
from .command_list import COMMANDS, GROUPS
from .garbage_collection import fewer_collections

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

_BY_NAME: Final = {command.name: command for command in COMMANDS}

#: Errors of a full or broken disk, for which the output of a command cannot be written.
_DISK_ERRORS: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

#: Least width of a terminal for which help is laid out: Rich would never end with 1 or 2.
_LEAST_COLUMNS: Final = 40


def _print_commands(console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
    """Print the list of commands in ``--help``, with a line for each, without importing them.

    Cyclopts takes the line from ``app.command(..., help=line)``, but then also replaces the whole
    docstring by it in the help of the command itself.
    """
    # Rich takes 0.1 s to import, and only help needs it.
    from cyclopts.help import InlineText  # noqa: PLC0415 -- see above
    from cyclopts.help.formatters import DefaultFormatter  # noqa: PLC0415 -- see above

    entries = [
        attrs.evolve(entry, description=InlineText.from_format(_BY_NAME[name].summary, "plaintext"))
        if (name := next(iter(entry.names), "")) in _BY_NAME
        else entry
        for entry in panel.entries
    ]
    DefaultFormatter()(console, options, panel.copy(entries=entries))


app = App(
    name="llama-router",
    help="Many local models behind one always-ready API: spawns, swaps and streams their backends.",
    version=version_line,
    help_epilogue="'llama-router COMMAND --help' has the options of a command, and examples.",
)
app["--help"].group = app["--version"].group = Group("Options", sort_key=len(GROUPS))
for _place, (_group, _commands) in enumerate(GROUPS.items()):
    _panel = Group(_group, help_formatter=_print_commands, sort_key=_place)
    for _command in _commands:
        app.command(
            f"{__package__}.commands.{_command.function}",
            name=_command.name,
            group=_panel,
            sort_key=_commands.index(_command),
            help_epilogue="  \n".join(("Examples:", *_command.examples)),  # hard breaks
        )


def main() -> None:
    """Run the command in ``sys.argv``, and exit with its status."""
    _prepare_streams()
    try:
        with fewer_collections():  # the imports of the command
            command, arguments, _ = app.parse_args()
        sys.exit(command(*arguments.args, **arguments.kwargs))
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports SIGINT
    except BrokenPipeError:  # the reader has closed the pipe, e.g. `head`
        _discard_output()
        sys.exit(1)
    except OSError as exc:
        if exc.errno not in _DISK_ERRORS or exc.filename is not None:
            raise
        _discard_output()
        sys.exit(f"error: cannot write the output: {exc.strerror}")


def _prepare_streams() -> None:
    """Make sure that the standard streams exist, and that text of any kind can be printed.

    /dev/null is opened in place of those that the program was started without: Python has None
    for them, and the next file or socket would get their descriptors.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free descriptor
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # Names of models and files may have characters that the terminal's encoding has not.
        sys.stdout.reconfigure(errors="backslashreplace")
    if (columns := _columns()) is not None and columns < _LEAST_COLUMNS:
        os.environ["COLUMNS"] = str(_LEAST_COLUMNS)


def _columns() -> int | None:
    """Return the width of the terminal; None if standard output is none."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return None


def _discard_output() -> None:
    """Redirect standard output to /dev/null, so that Python's flush at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
