"""The prompt caches that outlive their processes: saved before a stop, restored after a load.

Each model with ``keep_cache`` has a folder of its own in the state directory. The router passes it
to llama-server (``--slot-save-path``), lets it save the slots that are worth it before it is
stopped, and restore them after the next load, before the first request is granted. What is where,
and which launch wrote it, is in ``index.json``; a file that is not in there is removed before the
next load of its model.

Every step here is an offer: whatever goes wrong costs at most ``keep_cache_max_s``, a line in the
log, and the cache.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import attrs
import msgspec
import trio

from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec
from ..core.memory.learned import LaunchKey
from ..core.prompt_cache import state_file
from ..core.prompt_cache.kept import KeptSlot, KeptSlots, decode, encode
from ..core.prompt_cache.slot_list import MOST_SLOTS, Slot, parse_slots, slots_to_save
from ..core.prompt_cache.trial import Trial, cached_tokens
from ..errors.base import RouterError
from ..errors.requests import RequestError
from ..files import make_folder, open_file, read_up_to, reason_of, replace_atomically
from ..files.names import file_name_of
from ..logs.events import log
from ..threads import in_thread
from .backend import Backend
from .client import BackendExchange, Timeouts

#: Seconds for slots to be free at a stop, when no request is left: a llama-server notices within
#: about one that a client has gone.
ENDING_S: Final = 1.5

#: Seconds between two looks at the slots meanwhile.
_POLL_S: Final = 0.05

#: The folder in the state directory.
FOLDER: Final = "prompt-caches"

_INDEX: Final = "index.json"
_SUFFIX: Final = ".slot"
_MAX_INDEX_BYTES: Final = 8 * 1024 * 1024

#: Longest answer to a request about slots; a list of slots has their settings, too.
_MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024

#: Statuses by which a server says that it has no such endpoint, or not for this model.
_UNSUPPORTED: Final = frozenset((404, 405, 501))


class _Saved(msgspec.Struct):
    n_saved: int = 0
    n_written: int = 0


class _Restored(msgspec.Struct):
    n_restored: int = 0


def read_index(folder: Path) -> KeptSlots:
    """Return what the index in *folder* says; nothing if it is missing or unusable. Blocks."""
    try:
        return decode(read_up_to(folder / _INDEX, _MAX_INDEX_BYTES))
    except FileNotFoundError:
        return KeptSlots()
    except OSError as exc:
        reason = reason_of(exc)
    except ValueError as exc:
        reason = str(exc)
    log.warning("cache.unreadable", path=str(folder / _INDEX), reason=reason)
    return KeptSlots()


@attrs.define(eq=False)
class KeptCaches:
    """The saved slots of all models of one router.

    Attributes:
        folder: Where they are; made when the first one needs it.
        enqueue: Calls a blocking function in the background, in order.
        limit_bytes: Returns the most that all files together may take.
        kept: What there is.
    """

    folder: Path
    enqueue: Callable[[Callable[[], None]], None]
    limit_bytes: Callable[[], int]
    kept: KeptSlots = attrs.field(factory=KeptSlots)
    _models: frozenset[ModelId] = attrs.field(default=frozenset[ModelId](), init=False)
    _is_queued: bool = attrs.field(default=False, init=False)
    _writing: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _skipped: dict[ModelId, str] = attrs.field(factory=dict[ModelId, str], init=False)

    def folder_of(self, model: ModelId) -> Path:
        """Return the folder of *model*; it may not exist."""
        return self.folder / file_name_of(model, visible=True)

    async def prepare(self, model: ModelId, launch: LaunchKey | None) -> Path | None:
        """Return the folder for a start of *model* by *launch*; None if nothing can be kept.

        Files that another launch wrote are removed, and those that no record names.
        """
        if launch is None:
            self.skip(model, "its program cannot be identified")
            return None
        if (reason := self.kept.off.get(launch)) is not None:
            self.skip(model, reason)
            return None
        self._drop(self.kept.stale(model, launch))
        folder = self.folder_of(model)
        known = {slot.file for slot in self.kept.of(model)}
        try:
            await in_thread(_make_clean, self.folder, folder, known, abandon_on_cancel=True)
        except OSError as exc:
            self.skip(model, f"its folder cannot be used: {reason_of(exc)}")
            return None
        return folder

    def skip(self, model: ModelId, reason: str) -> None:
        """Log once why nothing is kept of *model*."""
        if self._skipped.get(model) != reason:
            self._skipped[model] = reason
            log.info("cache.skipped", model=model, reason=reason)

    def switch_off(self, model: ModelId, launch: LaunchKey, reason: str) -> None:
        """Keep nothing more of *launch*, and warn once."""
        log.warning("cache.disabled", model=model, reason=reason)
        self.change(self.kept.with_off(launch, reason))
        self._skipped[model] = reason
        self._drop(self.kept.of(model))

    def keep_only(self, specs: Iterable[ModelSpec]) -> None:
        """Remove what is kept of other models than those of *specs* with ``keep_cache``."""
        self._models = frozenset(spec.id for spec in specs if spec.spawn.keep_cache)
        removed = self.kept.removed(self._models)
        self._drop(removed)
        for model in sorted({slot.model for slot in removed}):
            log.info("cache.removed", model=model)
        names = {self.folder_of(model).name for model in self._models}
        self.enqueue(partial(_remove_others, self.folder, names))

    def wants(self, model: ModelId) -> bool:
        """Return whether *model* is still one whose prompt cache is kept."""
        return model in self._models

    def change(self, kept: KeptSlots) -> None:
        """Replace what is known, and write the index in the background."""
        self.kept = kept
        if not self._is_queued:
            self._is_queued = True
            self.enqueue(self.write)

    def add(self, slot: KeptSlot, replaced: Iterable[KeptSlot]) -> None:
        """Take *slot* in, in the place of *replaced*; the oldest ones leave for it."""
        self._drop(replaced)
        self.change(self.kept.with_slot(slot))
        evicted = self.kept.evicted(self.limit_bytes())
        for each in evicted:
            log.info("cache.evicted", model=each.model, tokens=each.n_tokens)
        self._drop(evicted)

    def drop(self, slot: KeptSlot, reason: str) -> None:
        """Remove *slot*, which cannot be used."""
        log.warning("cache.discarded", model=slot.model, tokens=slot.n_tokens, reason=reason)
        self._drop((slot,))

    def _drop(self, slots: Iterable[KeptSlot]) -> None:
        dropped = tuple(slots)
        if not dropped:
            return
        self.change(self.kept.without(dropped))
        for slot in dropped:
            path = self.folder_of(slot.model) / slot.file
            self.enqueue(partial(_remove, path))

    def write(self) -> None:
        """Write the index. Blocks; any thread may do it."""
        self._is_queued = False  # before the content is taken: a later change is written again
        try:
            with self._writing:
                make_folder(self.folder)
                replace_atomically(self.folder / _INDEX, encode(self.kept))
        except OSError as exc:
            log.warning("cache.unwritten", path=str(self.folder / _INDEX), reason=reason_of(exc))


@attrs.define(eq=False)
class KeptCache:
    """The prompt cache of one ready backend.

    Attributes:
        caches: Those of all models.
        backend: The backend.
        launch: What it was launched with.
        folder: The folder of its files.
    """

    caches: KeptCaches
    backend: Backend
    launch: LaunchKey
    folder: Path
    _trial: Trial = attrs.field(factory=lambda: Trial(()), init=False)
    _restored: list[KeptSlot] = attrs.field(factory=list[KeptSlot], init=False)
    _saved: dict[int, int | None] = attrs.field(factory=dict[int, int | None], init=False)
    _looks: count[int] = attrs.field(factory=count, init=False)
    _saving: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    @property
    def has_files(self) -> bool:
        """True if there is something to restore."""
        return bool(self.caches.kept.of(self.backend.model))

    @property
    def awaits_answer(self) -> bool:
        """True while an answer is wanted as the proof that what was restored is used."""
        return self._trial.waits

    def _is_off(self) -> bool:
        return self.launch in self.caches.kept.off

    # -- after a load ---------------------------------------------------------------------

    async def restore(self) -> None:
        """Let the backend, which is ready and serves nobody yet, read what was saved of it.

        Within ``keep_cache_max_s``; what fails is removed and not tried again. So is what is
        being read when this call is cancelled: a llama-server aborts on some damaged files, and
        would on each start.
        """
        limit_s = self.backend.spec.spawn.keep_cache_max_s
        kept = self.caches.kept.of(self.backend.model)[: self._n_slots]
        begun_s = trio.current_time()
        current: KeptSlot | None = None
        reason = "its backend ended, or was stopped, while it read it"
        try:
            with trio.move_on_after(limit_s) as scope:
                for current in kept:
                    if not await self._restore_one(current, len(self._restored), limit_s):
                        break
                current = None
            if scope.cancelled_caught:
                reason = f"it was not read within {limit_s:g} s (keep_cache_max_s)"
        finally:
            if current is not None:
                self.caches.drop(current, reason)
        self._trial = Trial([slot.n_tokens for slot in self._restored])
        if self._restored:
            log.info(
                "cache.restored",
                model=self.backend.model,
                slots=len(self._restored),
                tokens=sum(slot.n_tokens for slot in self._restored),
                took_s=round(trio.current_time() - begun_s, 3),
            )

    async def _restore_one(self, slot: KeptSlot, number: int, limit_s: float) -> bool:
        """Restore one file into the slot *number*; return whether another one may follow."""
        path = self.folder / slot.file
        try:
            found = await in_thread(os.stat, path, abandon_on_cancel=True)
            if (found.st_size, found.st_mtime_ns) != (slot.size_bytes, slot.mtime_ns):
                self.caches.drop(slot, "its file was changed after it was saved")
                return True
            body = await self._post(number, "restore", slot.file, limit_s)
            restored = msgspec.json.decode(body, type=_Restored)
        except (OSError, RouterError, msgspec.DecodeError) as exc:
            if number:  # perhaps it has no room for one more
                return False
            self._note_refusal(exc)
            reason = reason_of(exc) if isinstance(exc, OSError) else str(exc)
            self.caches.drop(slot, f"the backend did not read it: {reason}")
            return not self.backend.gone.is_set()
        if restored.n_restored != slot.n_tokens:
            self.caches.drop(slot, f"the backend has read {restored.n_restored} tokens of it")
            return True
        self._restored.append(slot)
        return True

    def note_answer(self, tail: bytes) -> None:
        """Take note of the end of an answer; see `awaits_answer`."""
        cached = cached_tokens(tail)
        if cached is None or not self._trial.waits:
            return
        self._trial.first = cached
        log.info("cache.used", model=self.backend.model, tokens=cached, hit=self._trial.has_hit)
        if self._trial.has_hit and self.launch not in self.caches.kept.works:
            self.caches.change(self.caches.kept.with_hit(self.launch))

    # -- before a stop --------------------------------------------------------------------

    async def save(self, *, idle_only: bool) -> None:
        """Let the backend save its slots that are worth it, within ``keep_cache_max_s``.

        What is saved already is not saved again, unless it was used since.

        Args:
            idle_only: Leave out slots that serve a request. Else their clients have left, and the
                server gets `ENDING_S` to notice it.
        """
        spawn = self.backend.spec.spawn
        is_wanted = self.caches.wants(self.backend.model)
        if self._is_off() or not is_wanted or self.backend.sleeping:
            return
        begun_s, done = trio.current_time(), 0
        with trio.move_on_after(spawn.keep_cache_max_s) as scope:
            async with self._saving:
                slots = await self._list(spawn.keep_cache_max_s)
                done += await self._save_idle(slots)
                if not idle_only and any(slot.is_processing for slot in slots):
                    done += await self._save_idle(await self._list_ended(slots))
                if done:  # the router may be about to end
                    await in_thread(self.caches.write, abandon_on_cancel=True)
        took_s = round(trio.current_time() - begun_s, 3)
        if done:
            log.info("cache.saved", model=self.backend.model, slots=done, took_s=took_s)
        if scope.cancelled_caught:
            reason = f"it took longer than {spawn.keep_cache_max_s:g} s (keep_cache_max_s)"
            log.warning("cache.unsaved", model=self.backend.model, reason=reason)

    async def _save_idle(self, slots: Sequence[Slot]) -> int:
        """Save those of *slots* that are worth it; return how many."""
        spawn, done = self.backend.spec.spawn, 0
        n_used = sum(slot.was_used for slot in slots)
        for slot in slots_to_save(slots, min_tokens=spawn.keep_cache_min_tokens, saved=self._saved):
            if self._is_off():
                break
            done += await self._save_one(slot, n_used, spawn.keep_cache_max_s)
        return done

    async def _list_ended(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """Return the slots when none serves a request any more, or after `ENDING_S`."""
        with trio.move_on_after(ENDING_S):
            while any(slot.is_processing for slot in slots):
                await trio.sleep(_POLL_S)
                slots = await self._list(ENDING_S)
        return slots

    async def _list(self, limit_s: float) -> list[Slot]:
        """Return the slots of the backend; all that it may have, if it does not list them."""
        try:
            return parse_slots(await self._ask("GET", "/slots", limit_s))
        except RouterError as exc:
            if exc.status in _UNSUPPORTED:  # --no-slots: it saves them all the same
                look = next(self._looks)  # perhaps each was used since the last one
                return [Slot(id=number, id_task=look) for number in range(self._n_slots)]
            if isinstance(exc, RequestError):  # it has an API key of its own
                self.caches.skip(self.backend.model, str(exc))
            else:
                self._note_failure(str(exc))
        except ValueError as exc:
            self._note_failure(f"its list of slots cannot be read: {exc}")
        return []

    @property
    def _n_slots(self) -> int:
        return min(self.backend.slots or 1, MOST_SLOTS)

    async def _save_one(self, slot: Slot, n_used: int, limit_s: float) -> bool:
        """Save one slot; return whether it was worth it."""
        model, spawn = self.backend.model, self.backend.spec.spawn
        file = f"{secrets.token_hex(16)}{_SUFFIX}"
        path = self.folder / file
        with _removed_unless_kept(path, self.caches.enqueue) as keeps:
            try:
                body = await self._post(slot.id, "save", file, limit_s)
                saved = msgspec.json.decode(body, type=_Saved)
                found = await in_thread(os.stat, path, abandon_on_cancel=True)
                tokens = await in_thread(_read_tokens, path, abandon_on_cancel=True)
            except (OSError, RouterError, msgspec.DecodeError) as exc:
                self._note_refusal(exc)
                if not self._is_off():
                    self._note_failure(reason_of(exc) if isinstance(exc, OSError) else str(exc))
                return False
            self._saved[slot.id] = slot.id_task
            if saved.n_saved < max(1, spawn.keep_cache_min_tokens):
                return False
            if saved.n_written != found.st_size:
                self._note_failure(
                    f"{saved.n_written} bytes were written, {found.st_size} are there"
                )
                return False
            older = await self._older_ones(tokens)
            if self._trial.has_missed(
                used_slots=n_used, continued=any(each in self._restored for each in older)
            ):
                self._trial = Trial(())
                self.caches.change(self.caches.kept.with_miss(self.launch))
                if self.caches.kept.has_failed(self.launch):
                    reason = (
                        "conversations that were restored went on, but were computed anew: "
                        "its server does not use what it restores"
                    )
                    self.caches.switch_off(model, self.launch, reason)
                    return False
            keeps()
            self.caches.add(
                KeptSlot(
                    model=model,
                    file=file,
                    launch=self.launch,
                    n_tokens=saved.n_saved,
                    size_bytes=found.st_size,
                    mtime_ns=found.st_mtime_ns,
                    used_s=time.time(),
                ),
                older,
            )
        return True

    async def _older_ones(self, tokens: bytes) -> list[KeptSlot]:
        """Return the files of the conversation that *tokens* go on with."""
        older: list[KeptSlot] = []
        for slot in self.caches.kept.of(self.backend.model):
            with suppress(OSError):
                path = self.folder / slot.file
                if await in_thread(_is_continued, path, tokens, abandon_on_cancel=True):
                    older.append(slot)
        return older

    def _note_refusal(self, exc: Exception) -> None:
        """Keep nothing more of the launch if the server says that it cannot."""
        if isinstance(exc, RouterError) and exc.status in _UNSUPPORTED:
            self.caches.switch_off(self.backend.model, self.launch, f"its server refuses: {exc}")

    def _note_failure(self, reason: str) -> None:
        log.warning("cache.unsaved", model=self.backend.model, reason=reason)

    # -- requests -------------------------------------------------------------------------

    async def _post(self, slot: int, action: str, file: str, limit_s: float) -> bytes:
        body = msgspec.json.encode({"filename": file})
        return await self._ask("POST", f"/slots/{slot}?action={action}", limit_s, body)

    async def _ask(
        self, method: str, target: str, limit_s: float, body: bytes | None = None
    ) -> bytes:
        """Return the answer of the backend to a request.

        Raises:
            RouterError: if it refuses or fails.
        """
        limits = Timeouts(connection_s=limit_s, silence_s=limit_s)
        with BackendExchange(self.backend, limits) as exchange:
            await exchange.request(method, target, body=body)
            return await exchange.receive_all(_MAX_ANSWER_BYTES)


@contextmanager
def _removed_unless_kept(
    path: Path, enqueue: Callable[[Callable[[], None]], None]
) -> Iterator[Callable[[], None]]:
    """Remove *path* after the block, however that ends, unless what it yields was called in it."""
    kept = False

    def keep() -> None:
        nonlocal kept
        kept = True

    try:
        yield keep
    finally:
        if not kept:
            enqueue(partial(_remove, path))


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _make_clean(parent: Path, folder: Path, known: Collection[str]) -> None:
    """Make *folder*, and remove the files of slots in it that are not *known*. Blocks."""
    make_folder(parent)
    make_folder(folder)
    folder.chmod(0o700)
    for name in os.listdir(folder):  # noqa: PTH208 -- names are enough
        if name.endswith(_SUFFIX) and name not in known:
            _remove(folder / name)


def _remove_others(folder: Path, names: Collection[str]) -> None:
    """Remove the folders in *folder* that are not among *names*. Blocks."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False) and entry.name not in names:
                shutil.rmtree(entry.path, ignore_errors=True)


def _read_tokens(path: Path) -> bytes:
    """Return the tokens of a slot's file; none if it is no such file. Blocks."""
    with open_file(path) as file:
        size = state_file.prompt_bytes(file.read(state_file.HEAD_BYTES))
        return b"" if size is None else state_file.tokens_in(file.read(size))


def _is_continued(path: Path, tokens: bytes) -> bool:
    """Return whether *tokens* go on with the conversation in a slot's file. Blocks."""
    return state_file.continues(_read_tokens(path), tokens)
