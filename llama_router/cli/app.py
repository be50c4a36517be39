"""The program: its commands by name, and its exit status."""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final

import attrs
from cyclopts import App, Group

from .. import __version__
from .garbage_collection import fewer_collections

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

#: Every command: its name, its function in ``commands``, and its line in ``llama-router --help``,
#: which is the first line of the function's docstring. It stands here, too, because ``--help``
#: must not import every command: that would take 0.4 s of CPU instead of 0.13 s.
COMMANDS: Final = (
    (
        "serve",
        "serve:serve",
        "Serve the configured models, and those found in caches, until SIGINT or SIGTERM.",
    ),
    ("demo", "demo:demo", "Make two tiny models, serve them, and print requests to try."),
    (
        "install-unit",
        "install_unit:install_unit",
        "Install the router as a systemd service, and print the next steps.",
    ),
    (
        "check",
        "configuration:check",
        "Check a configuration, and print every error; exit with 1 if there is one.",
    ),
    (
        "plan",
        "plan:plan",
        "Print which models fit with which, on which devices, and which would leave for others.",
    ),
    (
        "init",
        "configuration:init",
        "Write the documented example configuration; does not overwrite an existing file.",
    ),
    ("docs", "docs:docs", "Print a page of the documentation, or the list of all pages."),
    (
        "schema",
        "configuration:schema",
        "Print the JSON Schema of the configuration, for editors and other programs.",
    ),
    (
        "import-llama-swap",
        "migrate:import_llama_swap",
        "Translate llama-swap's configuration; does not overwrite an existing file.",
    ),
    (
        "import-presets",
        "migrate:import_presets",
        "Translate the INI presets of llama-server; does not overwrite an existing file.",
    ),
    (
        "inspect",
        "models:inspect",
        "Print the header of a GGUF file, and how the router would serve it.",
    ),
    (
        "import",
        "models:import_",
        "Add every model in a folder and its subfolders to the router permanently.",
    ),
    ("pull", "hub:pull", "Download a model from the hub into its cache, and print its path."),
    (
        "list",
        "list_models:list_models",
        "List every model that the router would serve, with size and origin.",
    ),
    (
        "rm",
        "hub:remove",
        "Delete a model, and its interrupted downloads, from the hub cache.",
    ),
    ("run", "run:run", "Chat with a model in the terminal, or print one answer."),
    ("ps", "ps:ps", "List the models that a running router has loaded."),
    (
        "status",
        "operate:status",
        "Print the state of a running router and of its configuration.",
    ),
    ("load", "operate:load", "Load models, and wait until they are ready."),
    (
        "unload",
        "operate:unload",
        "Unload models after their requests have ended, and wait until their backends have exited.",
    ),
    (
        "reload",
        "operate:reload",
        "Make a running router read its configuration now, and print the result.",
    ),
    (
        "rescan",
        "operate:rescan",
        "Make a running router scan its folders and caches for models now.",
    ),
    (
        "set",
        "operate:set_",
        "Change settings of a model in the router's configuration file, and apply them.",
    ),
    (
        "logs",
        "model_logs:logs",
        "Print the last output of a model's backends; with --follow also new output.",
    ),
)

_SUMMARIES: Final = {name: summary for name, _, summary in COMMANDS}

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
        attrs.evolve(entry, description=InlineText.from_format(_SUMMARIES[name], "plaintext"))
        if (name := next(iter(entry.names), "")) in _SUMMARIES
        else entry
        for entry in panel.entries
    ]
    DefaultFormatter()(console, options, panel.copy(entries=entries))


app = App(
    name="llama-router",
    help="Many local models behind one always-ready API: spawns, swaps and streams their backends.",
    version=__version__,
    group_commands=Group("Commands", help_formatter=_print_commands),
)
for _name, _function, _ in COMMANDS:
    app.command(f"{__package__}.commands.{_function}", name=_name)


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
