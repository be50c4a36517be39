"""Results of a search on the hub, and a repository with the models in it: messages. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

#: Orders of a search, in the hub's words.
SORTS: Final = ("downloads", "likes", "lastModified", "trendingScore")


class FoundRepository(msgspec.Struct, frozen=True):
    """A repository that a search found.

    Attributes:
        id: ``user/repo``.
        downloads: In the last month.
        likes: Number of people that like it.
        modified_at: Time of its last change, as the hub writes it.
        gated: Its files are for users that accepted its conditions.
        task: The task that its models are for, in the hub's words.
        is_here: Some of it is in the cache.
    """

    id: str
    downloads: int | None = None
    likes: int | None = None
    modified_at: str | None = None
    gated: bool = False
    task: str | None = None
    is_here: bool = False


class FoundRepositories(msgspec.Struct, frozen=True):
    """The result of a search."""

    repositories: list[FoundRepository]


class OfferedModel(msgspec.Struct, frozen=True):
    """A model of a repository: a quantization, usually.

    Attributes:
        label: Its name in ``user/repo:LABEL``.
        files: Its parts, by their paths.
        size_bytes: Of all its parts.
        mmproj: Its projector, which is fetched, too.
        mmproj_bytes: Size of that.
        here_bytes: What of all that is in the cache.
        is_default: It is fetched if no quantization is named.
    """

    label: str
    files: list[str]
    size_bytes: int
    mmproj: str | None
    mmproj_bytes: int
    here_bytes: int
    is_default: bool


class OfferedRepository(msgspec.Struct, frozen=True):
    """A repository, and the models in it.

    Attributes:
        id: ``user/repo``, as the hub spells it.
        gated: Its files are for users that accepted its conditions.
        models: Its complete models.
        note: Why there are none; empty if there are some.
        overhead_mib: What a model takes beside its weights, for `CONTEXT` tokens, by the header of
            a file; None if that could not be read.
        free_bytes: Space that is left on the disk of the cache.
        cache: The folder of the cache.
    """

    id: str
    gated: bool
    models: list[OfferedModel]
    note: str
    overhead_mib: int | None
    free_bytes: int
    cache: str


class BrowseFailed(msgspec.Struct, frozen=True):
    """The hub could not be asked, or its answer cannot be used."""

    code: str
    message: str


#: The context, in tokens, for which the memory of offered models is estimated.
CONTEXT = 8192
