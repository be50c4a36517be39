"""The commands: one module for each, or for a few that belong together.

A module has a command's options, its help and its work. It is imported only when one of its
commands is called (`llama_router.cli.app`). So this package is imported before any command, and
structlog is imported here: before any other module can import it at its full cost.
"""

from ...logs import structlog_without_rich  # noqa: F401 -- imported for its effect
