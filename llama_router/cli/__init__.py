"""The command line.

``command_list`` has the commands by name; each one is a function in ``commands``, imported when
it is called. The other modules are shared by commands.
"""

from __future__ import annotations

import sys

#: What shells run at each press of the tab key, to complete the name of a model.
NAMES_OF_MODELS = ["completion", "--models"]


def main() -> None:
    """Run the command in ``sys.argv``, and exit with its status."""
    if sys.argv[1:] == NAMES_OF_MODELS:
        from .completion_names import print_names  # noqa: PLC0415 -- without the imports of `app`

        print_names()
        return
    from .app import main as run  # noqa: PLC0415 -- see above

    run()


__all__ = ["main"]
