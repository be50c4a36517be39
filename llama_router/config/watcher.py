"""Watches ``router.toml`` and applies its changes to the running router."""

from __future__ import annotations

import hashlib
from codecs import BOM_UTF8
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import trio

from ..core.config.config import Config
from ..core.config.names import ModelId
from ..core.config.reload import ReloadPlan, ReloadReport, plan_reload
from ..errors.config import ConfigChangedError, ConfigError, Problem, SettingError
from ..files import Unseen, is_missing, look
from ..logs.events import log
from ..threads import ThreadRefusedError, in_thread
from ..workers.interpreter_settings import loop_goes_first
from .file import ConfigFile, read_config, read_file, replace_config
from .file_watch import Absence, AbsenceNews, FileWatch, NextStep, Stamp
from .load import LoadedConfig, load_file
from .reload_reports import ReloadReports

#: Pause between two polls of the file, in seconds. inotify would lose the file at the first
#: atomic rename, and would not report changes behind a link.
POLL_S: Final = 1.0

#: Time for which a changed file must stay the same, in seconds.
SETTLE_S: Final = 0.2

#: Time after which a missing file is no longer one that is just being replaced, in seconds.
GONE_S: Final = 5.0

#: The digest of an empty file, and of a missing one that is optional.
_EMPTY_SHA256: Final = hashlib.sha256().digest()

Apply = Callable[[Config, ReloadPlan], Awaitable[frozenset[ModelId]]]
"""Puts a checked configuration in force by a plan, or raises `ConfigError`. Returns the models
that get a new process."""


Load = Callable[[ConfigFile, Config], LoadedConfig]
"""Returns the configuration of a file, given the one in force; blocks on the files that it names,
raises `ConfigError`."""


def load_without_scans(file: ConfigFile, _: Config) -> LoadedConfig:
    """Return the configuration of *file*, without models that a scan found."""
    return load_file(file)


class Watcher:
    """Keeps the configuration in force equal to the file.

    Args:
        loaded: The configuration at the start.
        current: Returns the configuration in force.
        apply: Replaces it.
        load: Returns the configuration of a file.
        on_report: Called with the report of each reload.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        *,
        current: Callable[[], Config],
        apply: Apply,
        load: Load = load_without_scans,
        on_report: Callable[[ReloadReport], None] = lambda _: None,
    ) -> None:
        self._path = loaded.path
        self._remember(loaded)
        self._had_content = loaded.digest != _EMPTY_SHA256
        self._current = current
        self._apply = apply
        self._load = load
        self._missing: tuple[Path, ...] = ()
        self._retry = False  # a reload failed because the system refused a thread
        self._fault: str | None = None  # the reason why the file cannot be read
        self._absence = Absence(GONE_S)
        self._editing = trio.Lock()
        self._requested = trio.Event()
        self._begun = 0  # number of reloads, so that `reload` waits for one that began after it
        self._finished = 0
        self._reloaded = trio.Event()
        self._reports = ReloadReports(loaded, on_report)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def report(self) -> ReloadReport:
        """The report of the latest reload."""
        return self._reports.latest

    def request_reload(self) -> None:
        """Make `run` read the file now, even if it has not changed."""
        self._requested.set()

    async def reload(self) -> ReloadReport:
        """Read the file now; return the report. A newer file may have been read instead."""
        number = self._begun + 1
        self.request_reload()
        while self._finished < number:
            await self._reloaded.wait()
        return self.report

    async def reload_by_request(self) -> ReloadReport:
        """Read the file now; return what became of its content, also if it is in force already.

        The poll may have applied a file that was saved a moment before the request.
        """
        report = await self.reload()
        return self._reports.with_recent_changes(report, self._digest)

    async def edit(
        self, change: Callable[[str], str], *, expected: str | None, whole: bool = False
    ) -> ReloadReport:
        """Change the file, and apply it.

        The new content is checked before the file is replaced in one step, so the file is
        never incomplete or invalid.

        Args:
            change: Returns the new text for the old one. Runs on a thread.
            expected: Digest, in hexadecimal, that the file must have; None for any.
            whole: The change replaces the whole text, so that may have mistakes.

        Returns:
            The report: rejected with all problems, or applied.

        Raises:
            ConfigChangedError: if the file is not the expected one, or changes meanwhile.
            SettingError: if it is missing, or the change or writing it is impossible.
        """
        edit = partial(self._edit, self._current(), change, expected, whole=whole)
        try:
            async with self._editing:  # concurrent edits are made one after the other
                await in_thread(edit, abandon_on_cancel=True)
        except ConfigError as exc:
            return self._reports.refused(exc)
        return await self.reload_by_request()

    async def check(self, change: Callable[[str], str], *, expected: str | None) -> ReloadReport:
        """Return the report that a reload after *change* would have; nothing is changed.

        Args:
            change: Returns the new text for the old one. Runs on a thread.
            expected: Digest, in hexadecimal, that the file must have; None for any.

        Raises:
            ConfigChangedError: if the file is not the expected one.
            SettingError: if it cannot be read.
        """
        try:
            loaded, plan = await in_thread(
                self._check, self._current(), change, expected, abandon_on_cancel=True
            )
        except ConfigError as exc:
            return self._reports.refused(exc)
        return self._reports.of(loaded, plan, plan.restart)

    def _check(
        self, current: Config, change: Callable[[str], str], expected: str | None
    ) -> tuple[LoadedConfig, ReloadPlan]:
        file = self._expected(expected)
        data = change(file.data.decode("utf-8-sig", "replace")).encode()
        with loop_goes_first():
            loaded = self._load(file.with_data(data), current)
            return loaded, plan_reload(current, loaded.config)

    def _expected(self, expected: str | None) -> ConfigFile:
        """Return the file, if it has the digest *expected* or that is None."""
        file = read_config(self._path)
        if expected is not None and expected != file.sha256.hex():
            raise ConfigChangedError(
                "the configuration file was changed since it was read, so nothing was written; "
                "read it again"
            )
        return file

    def _edit(
        self, current: Config, change: Callable[[str], str], expected: str | None, *, whole: bool
    ) -> None:
        file = self._expected(expected)
        before = file.data
        if not before and self._had_content:
            raise SettingError(  # a new file would lose all settings of the old one
                f"the configuration file {self._path} is gone, or there is nothing left in it, "
                "so nothing was written; put it back first"
            )
        text = before.decode("utf-8-sig", "replace") if whole else file.text
        if not whole:
            file.document  # noqa: B018 -- refuses what is not TOML
        mark = BOM_UTF8 if before.startswith(BOM_UTF8) else b""
        data = mark + change(text).encode()
        if data != before:
            with loop_goes_first():
                self._load(file.with_data(data), current)
            replace_config(file, data)

    async def run(self) -> NoReturn:
        """Watch until cancelled. Changes during a reload are detected after it."""
        watch = FileWatch()
        pause_s = POLL_S
        while True:
            stamp: Stamp = None
            with trio.move_on_after(pause_s):
                await self._requested.wait()
            pause_s = POLL_S
            if not self._requested.is_set():
                # On a thread, which is abandoned if the file system hangs when the router stops.
                try:
                    stamp, is_back, fault = await in_thread(
                        lambda: (
                            _stamp_of(self._path),
                            _any_exists(self._missing),
                            _fault_of(self._path),
                        ),
                        abandon_on_cancel=True,
                    )
                except ThreadRefusedError:
                    continue
                self._log_fault(fault)
                self._note_absence(stamp, fault)
                step = watch.observe(stamp)
                is_back = is_back or self._retry
                if is_back:
                    self._digest = b""  # the same text may be usable now
                match NextStep.READ if is_back and step is NextStep.WAIT else step:
                    case NextStep.WAIT:
                        continue
                    case NextStep.RECHECK:
                        pause_s = SETTLE_S
                        continue
                    case NextStep.READ:
                        pass
            if self._requested.is_set():  # perhaps during the poll
                with suppress(ThreadRefusedError):  # then it is read once more than needed
                    watch.mark_read(await in_thread(_stamp_of, self._path, abandon_on_cancel=True))
                stamp = None
            self._requested = trio.Event()
            self._begun += 1
            await self._reload(stamp)
            self._finished = self._begun
            self._reloaded.set()
            self._reloaded = trio.Event()

    def _note_absence(self, stamp: Stamp, fault: str | None) -> None:
        """Reject a file that has been gone for too long; have it read again once it is back."""
        is_gone = stamp is None and self._had_content
        match self._absence.observe(is_gone=is_gone, now_s=trio.current_time()):
            case AbsenceNews.GONE:
                reason = "is gone" if fault is None else f"cannot be accessed ({fault})"
                message = f"{self._path} {reason}: the settings stay as they are until it is back"
                self._reports.rejected(ConfigError((Problem((), message),)))
            case AbsenceNews.BACK:
                self._retry = True
            case AbsenceNews.NONE:
                pass

    def _log_fault(self, fault: str | None) -> None:
        """Log a new reason why the file cannot be read."""
        if fault is not None and fault != self._fault:
            log.warning("config.unseen", path=str(self._path), reason=fault)
        self._fault = fault

    async def _reload(self, expected: Stamp) -> None:
        """Read and apply the file, if it has the stamp *expected* or that is None."""
        try:
            self._retry = False
            read = await in_thread(
                self._read,
                self._current(),
                expected,
                abandon_on_cancel=True,
            )
            if read is None:
                return
            loaded, plan = read
            self._remember(loaded)
            self._had_content = loaded.digest != _EMPTY_SHA256
            replaced = await self._apply(loaded.config, plan)
            self._reports.applied(loaded, plan, replaced)
        except ConfigError as exc:
            # Any next change is read, even with equal content: new permissions may fix it, too.
            self._digest = b""
            self._missing = _missing_in(exc.problems)
            self._reports.rejected(exc)
        except ThreadRefusedError as exc:
            self._digest, self._retry = b"", True
            self._reports.rejected(ConfigError((Problem((), f"it could not be applied: {exc}"),)))

    def _remember(self, loaded: LoadedConfig) -> None:
        """Remember the digest of the file, and missing files: once one exists, it is read again."""
        self._missing = _missing_in(loaded.unavailable)
        self._digest = loaded.digest

    def _read(self, current: Config, expected: Stamp) -> tuple[LoadedConfig, ReloadPlan] | None:
        """Return the file's configuration and the plan to apply it. Blocks on files.

        With a stamp *expected*, return None if the content is the same as before, or if the file
        changes while it is read: half a file may be valid. The next poll detects that change.

        Raises:
            ConfigError: if it cannot be used.
        """
        try:
            file = read_file(self._path)
            if expected is not None and file.sha256 == self._digest and file.absence is None:
                return None
            self._refuse_emptied(file)
            with loop_goes_first():
                loaded = self._load(file, current)
                plan = plan_reload(current, loaded.config)
        except ConfigError:
            if expected in (None, _stamp_of(self._path)):
                raise
            return None
        return (loaded, plan) if expected in (None, _stamp_of(self._path)) else None

    def _refuse_emptied(self, file: ConfigFile) -> None:
        """Refuse an empty or missing file after one with content: every model would be removed.

        Raises:
            ConfigError: if the file has nothing in it and had before.
        """
        if self._had_content and not file.data:
            message = (
                "the file is empty, as if saving it failed; if you mean it, leave a comment there"
                if file.absence is None
                else f"cannot read {file.path}: {file.absence}"
            )
            raise ConfigError((Problem((), message),))


def _missing_in(problems: tuple[Problem, ...]) -> tuple[Path, ...]:
    return tuple(Path(problem.missing) for problem in problems if problem.missing is not None)


def _any_exists(paths: tuple[Path, ...]) -> bool:
    return not all(is_missing(path) for path in paths)


def _stamp_of(path: Path) -> Stamp:
    found = look(path)  # follows links
    if isinstance(found, Unseen):
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _fault_of(path: Path) -> str | None:
    found = look(path)
    return found.reason if isinstance(found, Unseen) and not found.is_missing else None
