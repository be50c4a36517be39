"""The command line: arguments, signals, logging set-up, exit codes."""

from .app import main

__all__ = ["main"]
