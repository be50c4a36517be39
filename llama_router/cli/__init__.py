"""The command line.

``app`` lists the commands by name; each one is a function in ``commands``, imported when it is
called. The other modules are shared by commands.
"""

from .app import main

__all__ = ["main"]
