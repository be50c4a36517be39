"""What does not prevent the use of a configuration, but looks like a mistake."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from ..core.config import placeholders
from ..core.config.config import Config
from ..core.config.specs import DEFAULT_SPAWN
from ..errors.config import Problem, Where
from .file import ConfigFile, tables
from .paths import missing_on_path


def warnings_about(config: Config) -> Iterator[Problem]:
    """Yield warnings that need the whole configuration."""
    if not config.models:
        yield Problem((), "no models are configured")
    for model, spec in config.models.items():
        words = (*spec.spawn.command, *spec.spawn.args, *spec.spawn.env.values())
        if spec.mmproj is not None and not any(
            "mmproj" in placeholders.names_in(word) for word in words
        ):
            message = "has no effect: the command does not use '$mmproj'"
            yield Problem(("models", model, "mmproj"), message)
    defaults = (
        m for m, spec in config.models.items() if spec.spawn.command is DEFAULT_SPAWN.command
    )
    if (first := next(defaults, None)) and (doubt := missing_on_path(DEFAULT_SPAWN.command[0])):
        yield Problem(("models", first), doubt)


def exposed_secrets(file: ConfigFile) -> Iterator[Problem]:
    """Yield the first secret in the file, if every user of the machine may read it."""
    if not file.mode & stat.S_IROTH:
        return
    document = file.document
    places: list[Where] = [("router", "admin_token")]
    places += [("api_keys", name, "key") for name, _ in tables(document, "api_keys")]
    for section, *keys in places:
        found: object = document.get(str(section))
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is None:
            continue
        cure = "keep its 'sha256' instead" if keys[-1] == "key" else "leave it out"
        message = (
            "every user of this machine may read it, because the file's mode is "
            f"{file.mode:04o}: {cure}, or let only the router's user read the file"
        )
        yield Problem((section, *keys), message)
        return
