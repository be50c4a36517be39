"""The command line and the environment of a backend, with placeholders replaced. Pure."""

from __future__ import annotations

from .placeholders import expand
from .specs import ModelSpec


def command_line(spec: ModelSpec, *, port: int, host: str, container: str = "") -> tuple[str, ...]:
    """Return the complete argument vector of *spec*'s backend, program first.

    Only arguments from the configuration are in it.

    Args:
        spec: A model from `parse_config`, which has checked its placeholders.
        port: TCP port allotted to the backend.
        host: Address the backend is to listen on.
        container: The value of ``$container``.

    Raises:
        ValueError: if *spec* was not checked and uses a placeholder without a value.
    """
    values = placeholder_values(spec, port=port, host=host, container=container)
    return tuple(expand(word, values) for word in (*spec.spawn.command, *spec.spawn.args))


def stop_command_line(
    spec: ModelSpec, *, port: int, host: str, container: str, pid: int
) -> tuple[str, ...]:
    """Return the argument vector that stops *spec*'s backend; empty if it has none.

    Args:
        spec: See `command_line`.
        port: Its port.
        host: Its address.
        container: The value of ``$container``.
        pid: Its process.
    """
    values = placeholder_values(spec, port=port, host=host, container=container)
    values["pid"] = str(pid)
    return tuple(expand(word, values) for word in spec.spawn.stop_command or ())


def environment(spec: ModelSpec, *, port: int, host: str, container: str = "") -> dict[str, str]:
    """Return the ``env`` table of *spec* with its values expanded.

    These are only the variables that the configuration names, not those that
    the backend inherits. Arguments and exceptions are those of `command_line`.
    """
    values = placeholder_values(spec, port=port, host=host, container=container)
    return {name: expand(value, values) for name, value in spec.spawn.env.items()}


def placeholder_values(
    spec: ModelSpec, *, port: int, host: str, container: str = ""
) -> dict[str, str]:
    """Return the values of the placeholders; *spec* may lack some."""
    values = {"model": str(spec.id), "port": str(port), "host": host, "container": container}
    if spec.path is not None:
        values["path"] = spec.path
    if spec.mmproj is not None:
        values["mmproj"] = spec.mmproj
    return values
