"""The sender of a request, and the models that it may use. Pure."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

import attrs

from ...errors.access import ModelNotAllowedError
from ...errors.admission import UnknownModelError
from ..config.config import Config
from ..config.names import ResolvedModel
from ..config.specs import ModelSpec, Priority
from ..scheduling import refusals
from ..scheduling.fairness import RANKS


@attrs.frozen
class Caller:
    """The sender of a request.

    Attributes:
        name: Name of its API key; None if it needed none.
        models: Names and patterns of the models that it may use; None for all.
        mcp: Whether its key is good for ``/mcp``.
        metrics: Whether its key is good for ``/metrics``.
        priority: The highest class of its requests; None for any.
        weight: Its share where it takes turns with others.
        asked: The class that the request asks for; None if it does not.
    """

    name: str | None = None
    models: tuple[str, ...] | None = None
    mcp: bool = False
    metrics: bool = False
    priority: Priority | None = None
    weight: float = 1.0
    asked: Priority | None = None

    def priority_at(self, spec: ModelSpec | None) -> Priority:
        """Return the class of its request for a model: never higher than that of its key."""
        wanted = self.asked or (spec and spec.priority) or self.priority or Priority.NORMAL
        return wanted if self.priority is None else max(wanted, self.priority, key=_rank)

    def may_use(self, spec: ModelSpec) -> bool:
        """Return whether it may use the model, by its id or any alias."""
        if self.models is None:
            return True
        names = (str(spec.id), *spec.aliases)
        return any(fnmatchcase(name, pattern) for pattern in self.models for name in names)

    def check_unrestricted(self) -> None:
        """Refuse a caller with some models only: files on the disk belong to all callers.

        Raises:
            ModelNotAllowedError: if its API key is for some models only.
        """
        if self.models is not None:
            raise ModelNotAllowedError(
                f"the API key {self.name!r} is for some models only, and may not fetch or delete "
                "any, nor see the settings of the router"
            )

    def find(self, config: Config, name: str) -> ResolvedModel | None:
        """Return the model of that *name*; None if there is none that this caller may use."""
        resolved = config.lookup(name)
        if resolved is None or self.may_use(config.models[resolved.model]):
            return resolved
        return None

    def default_model(self, config: Config) -> str | None:
        """Return the name of the default model; None if there is none that this caller may use."""
        name = config.router.default_model
        return None if name is None or self.find(config, name) is None else name

    def check_model(self, spec: ModelSpec, name: str, config: Config) -> None:
        """Refuse a model that this caller may not use, as if no model had that name.

        Args:
            spec: The model.
            name: Its name in the request.
            config: The configuration in force.

        Raises:
            UnknownModelError: if the caller may not use it.
        """
        if not self.may_use(spec):
            raise self.unknown(name, config)

    def unknown(self, name: str, config: Config) -> UnknownModelError:
        """Return the error for *name*, which stands for no model that this caller may use.

        It does not depend on whether such a model exists, so that a key reveals no others.
        """
        if self.models is None:
            return refusals.unknown(name, config)
        usable = [model for model, spec in config.models.items() if self.may_use(spec)]
        return refusals.unknown_to_key(name, config, usable)


def _rank(priority: Priority) -> int:
    return RANKS[priority]


UNRESTRICTED: Final = Caller()
