"""Downloads, deletions and what the hub has, as types of the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from .schemas import StrictBody


class DownloadBody(StrictBody):
    """The model to fetch: ``user/repo`` or ``user/repo:QUANT``, or one *file* of ``user/repo``."""

    model: Annotated[str, Meta(min_length=1, max_length=1024)]
    file: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None


class DownloadFault(msgspec.Struct):
    """The error of a failed download."""

    code: str
    message: str


class Download(msgspec.Struct):
    """A download: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``.

    *model*, *files* and *total_bytes* are null or empty until the hub has answered; *note*
    is the reason while nothing is received. A model that is ``done`` is served, unless
    ``scan_caches`` is off.
    """

    id: str
    requested: str
    model: str | None
    state: str
    files: list[str]
    done_bytes: int
    total_bytes: int | None
    bytes_per_s: int | None
    left_s: float | None
    note: str | None
    path: str | None
    mmproj: str | None
    error: DownloadFault | None


class Downloads(msgspec.Struct):
    """Running downloads, and the latest ones that ended, oldest first."""

    downloads: list[Download]


class Rescanned(msgspec.Struct):
    """The result of a scan: the number of new models, and of models that are gone."""

    status: str
    new_models: int
    removed: int


class Deleted(msgspec.Struct):
    """The model that was deleted, and the bytes that this freed."""

    id: str
    freed_bytes: int


class HubRepository(msgspec.Struct):
    """A repository that a search found.

    *modified_at* is as the hub writes it, *task* in its words. *is_here* says that some of it is in
    the cache.
    """

    id: str
    downloads: int | None
    likes: int | None
    modified_at: str | None
    gated: bool
    task: str | None
    is_here: bool


class HubSearch(msgspec.Struct):
    """Repositories with GGUF files, the first ones that the hub found."""

    query: str
    repositories: list[HubRepository]


class HubFit(msgspec.Struct):
    """Where a model fits when nothing else is loaded, with a context of 8192 tokens.

    *where* is ``gpu`` (one of the *devices*), ``gpus`` (split over them), ``gpu_and_host`` (a part
    of its layers in host memory, which is slower), ``host``, or ``none``. *source* is ``header`` if
    the header of a file was read, else ``size``.
    """

    where: str
    devices: list[str]
    need_mib: int
    source: str


class HubModel(msgspec.Struct):
    """A model of a repository, by its *label*: a quantization, usually.

    *size_bytes* is that of all its *files*; *mmproj* is fetched with it. *here_bytes* of all that
    are in the cache. *model* is its id if it is served; *reference* is what a download takes.
    """

    label: str
    reference: str
    files: list[str]
    size_bytes: int
    mmproj: str | None
    mmproj_bytes: int
    here_bytes: int
    is_here: bool
    is_default: bool
    model: str | None
    fit: HubFit


class HubModels(msgspec.Struct):
    """A repository with its complete models, smallest first.

    *note* says why there are none. *free_bytes* are left on the disk of the *cache*.
    """

    id: str
    gated: bool
    models: list[HubModel]
    note: str
    free_bytes: int
    cache: str
