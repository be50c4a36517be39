"""The backends' own descriptions of their models: requested once per load, kept afterwards.

What lists of models need to know before the first load is read from the models' files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import trio

from ...backends.backend import Backend
from ...backends.client import fetch
from ...core.config.names import ModelId
from ...core.config.specs import Capability, ModelSpec
from ...core.memory.learned import Learned
from ...core.scheduling.lifecycle import Phase
from ...dispatch.dispatcher import Dispatcher
from ...errors.base import RouterError
from ...event_feed import ConfigReloaded, FeedEvent, ModelPhaseChanged
from ...models.file_facts import FileFacts, read_facts
from ...threads import in_thread
from ...workers.interpreter_settings import loop_goes_first
from .entries import BackendInfo, read_backend_info

#: Time limit of that request, in seconds; the backend has just become ready.
REQUEST_TIMEOUT_S: Final = 5.0

#: Longest wait for the headers of models' files at the start, in seconds: a file system may hang.
FIRST_LOOK_S: Final = 1.0

#: Largest response that is read, in bytes.
_MAX_BYTES: Final = 1024 * 1024

_NO_FACTS: Final = FileFacts()


class ModelInfo:
    """Requests the description of each backend that becomes ready.

    Args:
        dispatcher: Has the backends.
        learned: Returns what is known of a model from earlier loads, also of an earlier router.
    """

    def __init__(self, dispatcher: Dispatcher, learned: Callable[[ModelId], Learned]) -> None:
        self._dispatcher = dispatcher
        self._learned = learned
        self._known: dict[ModelId, tuple[int, BackendInfo | None]] = {}  # by pid of the backend
        self._files: dict[str, tuple[str | None, FileFacts]] = {}  # by path, with its version
        self._changed = trio.Event()
        self._templates_wanted = trio.Event()

    def outputs(self, spec: ModelSpec) -> tuple[str, ...]:
        """Return what a model generates, in llama.cpp's words, as far as its file tells."""
        if spec.capabilities is not None and Capability.IMAGE in spec.capabilities:
            return ("image",)
        return ("decisions",) if self.file(spec).is_decision_model else ("text",)

    @property
    def changed(self) -> trio.Event:
        """Return an event that is set when something becomes known after this call."""
        return self._changed

    def want_templates(self) -> None:
        """Have the chat templates of all files read from now on; the first call begins with it.

        They are at the end of the headers, and to get there takes ten milliseconds each.
        """
        self._templates_wanted.set()

    def file(self, spec: ModelSpec) -> FileFacts:
        """Return what is known of a model's file."""
        found = self._files.get(spec.path or "")
        return _NO_FACTS if found is None else found[1]

    def get(self, model: ModelId) -> BackendInfo | None:
        """Return the description by the last backend of *model*, if it gave one.

        Before the first load, only the context of an earlier router's last load is known.
        """
        found = self._known.get(model)
        if found is not None and found[1] is not None:
            return found[1]
        n_ctx = self._learned(model).n_ctx_slot
        return None if n_ctx is None else BackendInfo(fields={"meta": {"n_ctx": n_ctx}})

    async def settled(self, model: ModelId) -> BackendInfo | None:
        """Return the same, after the request to the present backend, if there is one."""
        while True:
            backend = self._dispatcher.backend(model)
            if backend is None or self._known.get(model, (None,))[0] == backend.pid:
                return self.get(model)
            await self._changed.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the event feed until cancelled."""
        feed = self._dispatcher.feed
        async with trio.open_nursery() as nursery:
            for backend in self._dispatcher.ready_backends():
                nursery.start_soon(self._request, backend)
            number = feed.last
            with trio.move_on_after(FIRST_LOOK_S):  # so that the first list is complete
                await self._read_files()
            nursery.start_soon(self._read_whole_files)
            nursery.start_soon(self._read_templates)
            task_status.started()
            while True:
                await feed.wait_after(number)
                items = feed.after(number)
                number = feed.last
                if items is None:  # too far behind: request all descriptions
                    ready = self._dispatcher.ready_backends()
                else:
                    found = [self._dispatcher.backend(model) for model in _ready_models(items)]
                    ready = [backend for backend in found if backend is not None]
                for backend in ready:
                    nursery.start_soon(self._request, backend)
                if items is None or any(isinstance(i.event, ConfigReloaded) for i in items):
                    nursery.start_soon(self._read_changed_files)
                self._forget_removed()
                self._notify()  # a waiter's backend may be gone

    async def _read_files(self) -> None:
        """Read the headers of models' files that are new, or have another version."""
        config = self._dispatcher.config
        versions = {
            spec.path: config.file_versions.get(model, {}).get(spec.path)
            for model, spec in config.models.items()
            if spec.path is not None
        }
        known = self._files
        wanted = [p for p, version in versions.items() if known.get(p, ("",))[0] != version]
        if wanted:
            read = await in_thread(lambda: _facts(wanted), abandon_on_cancel=True)
            known |= {path: (versions[path], found) for path, found in read.items()}
        for path in known.keys() - versions.keys():
            del known[path]

    async def _read_whole_files(self) -> None:
        """Read the whole headers of files of which something is not known, one by one."""
        for path, (version, facts) in list(self._files.items()):
            is_enough = facts.quant is not None and not self._templates_wanted.is_set()
            if facts.is_whole or is_enough:
                continue
            read = await in_thread(lambda: _facts([path], whole=True), abandon_on_cancel=True)  # noqa: B023 -- called before the next round
            if self._files.get(path) == (version, facts):
                self._files[path] = version, read[path]
                self._notify()

    async def _read_templates(self) -> None:
        await self._templates_wanted.wait()
        await self._read_whole_files()

    async def _read_changed_files(self) -> None:
        await self._read_files()
        await self._read_whole_files()

    async def _request(self, backend: Backend) -> None:
        info = None
        with suppress(RouterError):  # many backends have no list of models
            answer = await fetch(
                backend, "/v1/models", max_bytes=_MAX_BYTES, timeout_s=REQUEST_TIMEOUT_S
            )
            if answer.status == 200:
                info = read_backend_info(answer.body)
        if info is None:
            info = self.get(backend.model)
        elif backend.fit is not None:
            info = info.with_fit(backend.fit, squeezed=backend.squeezed)
        self._known[backend.model] = (backend.pid, info)
        self._notify()

    def _forget_removed(self) -> None:
        models = self._dispatcher.config.models
        for model in [model for model in self._known if model not in models]:
            del self._known[model]

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _ready_models(items: Iterable[FeedEvent]) -> list[ModelId]:
    """Return the models that became ready in *items*."""
    changes = (item.event for item in items if isinstance(item.event, ModelPhaseChanged))
    return [change.model for change in changes if change.phase is Phase.READY]


def _facts(paths: Iterable[str], *, whole: bool = False) -> dict[str, FileFacts]:
    """Return the facts about each file. Blocks on files."""
    with loop_goes_first():
        return {path: read_facts(path, whole=whole) for path in paths}
