"""Notices that ``router.toml`` changed, and applies it to the running router."""

from __future__ import annotations

import hashlib
import time
from codecs import BOM_UTF8
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import structlog
import trio

from ..core.config.config import Config
from ..core.config.diff import ReloadPlan, plan_reload, router_fields_to_restart_for
from ..core.config.names import ModelId
from ..errors.config import ConfigChangedError, ConfigError, Problem, SettingError
from ..files import Unseen, is_missing, look
from ..interpreter_settings import loop_goes_first
from ..threads import ThreadRefusedError, in_thread
from .file import ConfigFile, read_file
from .file_watch import Advice, FileWatch, Stamp
from .load import LoadedConfig, load_file
from .reload_report import ReloadReport, Verdict
from .replace import read_config, replace_config

log = structlog.get_logger()

#: Between two looks at the file, in seconds. A notification of the kernel would be lost
#: with the first atomic rename, and would miss what a link leads to.
POLL_S: Final = 1.0

#: How long a changed file must stay the same, in seconds.
SETTLE_S: Final = 0.2

#: The digest of a file with nothing in it, and of none where none is needed.
_NOTHING: Final = hashlib.sha256().digest()

Apply = Callable[[Config, ReloadPlan], Awaitable[frozenset[ModelId]]]
"""Makes a checked configuration the one in force, or raises `ConfigError`. It is told how that
differs from the former one. Returns the models whose process is replaced."""


Load = Callable[[ConfigFile, Config], LoadedConfig]
"""Checks a file that was read, given the configuration in force; blocks on the files that it
names, raises `ConfigError`."""


def load_alone(file: ConfigFile, _: Config) -> LoadedConfig:
    """Check a configuration that is all in one file."""
    return load_file(file)


class Watcher:
    """Keeps the configuration in force the one in the file.

    Args:
        loaded: What the router started with.
        current: Returns the configuration in force.
        apply: Replaces it.
        load: Checks the file, which was read.
        on_report: Hears what each look led to.

    Attributes:
        report: What the latest look led to.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        *,
        current: Callable[[], Config],
        apply: Apply,
        load: Load = load_alone,
        on_report: Callable[[ReloadReport], None] = lambda _: None,
    ) -> None:
        self._path = loaded.path
        self._started = loaded.as_written
        self._note(loaded)
        self._had_text = loaded.digest != _NOTHING
        self._current = current
        self._apply = apply
        self._load = load
        self._on_report = on_report
        self._missing: tuple[Path, ...] = ()
        self._unread = False  # though it should be: the system refused a thread
        self._fault: str | None = None  # why the file cannot even be looked at
        self._editing = trio.Lock()
        self._asked = trio.Event()
        self._begun = 0  # reloads, to tell an asker which of them saw its file
        self._finished = 0
        self._news = trio.Event()
        self.report = ReloadReport(
            verdict=Verdict.STARTED, at_s=time.time(), warnings=loaded.warnings
        )

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def look_now(self) -> None:
        """Read the file now, whether or not it seems to have changed."""
        self._asked.set()

    async def reload(self) -> ReloadReport:
        """Read the file now; return what became of it, or of what it was replaced by."""
        number = self._begun + 1
        self.look_now()
        while self._finished < number:
            await self._news.wait()
        return self.report

    async def edit(self, change: Callable[[str], str], *, expected: str | None) -> ReloadReport:
        """Change the file, and apply it.

        It is checked first, and replaced as a whole: no half a file is ever there, and none
        with a mistake.

        Args:
            change: Returns the new text for the old one. Runs on a thread.
            expected: Digest, in hexadecimal, that the file must have; None for any.

        Returns:
            What became of it: rejected with all problems, or applied.

        Raises:
            ConfigChangedError: if the file is not the expected one, or changes meanwhile.
            SettingError: if it is gone, cannot be changed like that, or not be written.
        """
        try:
            async with self._editing:  # two at the same time are two edits, one after the other
                await in_thread(
                    self._edit, self._current(), change, expected, abandon_on_cancel=True
                )
        except ConfigError as exc:
            return ReloadReport(
                verdict=Verdict.REJECTED,
                at_s=time.time(),
                problems=exc.problems,
                warnings=exc.warnings,
            )
        return await self.reload()

    def _edit(self, current: Config, change: Callable[[str], str], expected: str | None) -> None:
        file = read_config(self._path)
        before = file.data
        if expected is not None and expected != file.sha256.hex():
            raise ConfigChangedError(
                "the configuration file was changed since it was read, so nothing was written; "
                "read it again"
            )
        if not before and self._had_text:
            raise SettingError(  # a new one would take away all that the old one says
                f"the configuration file {self._path} is gone, or there is nothing left in it, "
                "so nothing was written; put it back first"
            )
        text = file.text
        file.document  # noqa: B018 -- refuses what is not TOML
        mark = BOM_UTF8 if before.startswith(BOM_UTF8) else b""
        data = mark + change(text).encode()
        if data != before:
            with loop_goes_first():
                self._load(file.holding(data), current)
            replace_config(file, data)

    async def run(self) -> NoReturn:
        """Watch until cancelled. Whatever changes during a reload is seen after it."""
        watch = FileWatch()
        pause_s = POLL_S
        while True:
            stamp: Stamp = None
            with trio.move_on_after(pause_s):
                await self._asked.wait()
            pause_s = POLL_S
            if not self._asked.is_set():
                # On a thread: a file system may hang. It is abandoned at the end then.
                try:
                    stamp, is_back, fault = await in_thread(
                        lambda: (
                            _stamp(self._path),
                            _any_exists(self._missing),
                            _fault(self._path),
                        ),
                        abandon_on_cancel=True,
                    )
                except ThreadRefusedError:
                    continue
                self._note_fault(fault)
                advice = watch.see(stamp)
                is_back = is_back or self._unread
                if is_back:
                    self._digest = b""  # the same text may be usable now
                match Advice.READ if is_back and advice is Advice.REST else advice:
                    case Advice.REST:
                        continue
                    case Advice.SETTLE:
                        pause_s = SETTLE_S
                        continue
                    case Advice.READ:
                        pass
            if self._asked.is_set():  # perhaps while the file was looked at
                with suppress(ThreadRefusedError):  # then it is read once more than needed
                    watch.is_read(await in_thread(_stamp, self._path, abandon_on_cancel=True))
                stamp = None
            self._asked = trio.Event()
            self._begun += 1
            await self._look(stamp)
            self._finished = self._begun
            self._news.set()
            self._news = trio.Event()

    def _note_fault(self, fault: str | None) -> None:
        """Log once why the file cannot be looked at, if it cannot."""
        if fault is not None and fault != self._fault:
            log.warning("config.unseen", path=str(self._path), reason=fault)
        self._fault = fault

    async def _look(self, settled: Stamp) -> None:
        """Read the file and use it: the one with the stamp *settled*, or anyhow if that is None."""
        try:
            self._unread = False
            read = await in_thread(
                self._read,
                self._current(),
                settled,
                abandon_on_cancel=True,
            )
            if read is None:
                return
            loaded, plan = read
            self._note(loaded)
            self._had_text = loaded.digest != _NOTHING
            await self._use(loaded, plan)
        except ConfigError as exc:
            # Whatever happens to the file next may mend it: rights that it gets back, too.
            self._digest = b""
            self._missing = _missing_in(exc.problems)
            self._reject(exc)
        except ThreadRefusedError as exc:
            self._digest, self._unread = b"", True
            self._reject(ConfigError((Problem((), f"it could not be applied: {exc}"),)))

    def _note(self, loaded: LoadedConfig) -> None:
        """Remember what was read, and which files are to be waited for: it is read again then."""
        self._missing = _missing_in(loaded.unavailable)
        self._digest = loaded.digest

    def _read(self, current: Config, settled: Stamp) -> tuple[LoadedConfig, ReloadPlan] | None:
        """Return what is in the file, and how it differs from *current*. Blocks on files.

        With a stamp *settled*, return None if it was written again with what it had, or if it
        changes again while it is read: half a file may well be valid. It will be seen again.

        Raises:
            ConfigError: if it cannot be used.
        """
        try:
            file = read_file(self._path)
            if settled is not None and file.sha256 == self._digest and file.absence is None:
                return None
            self._refuse_emptied(file)
            with loop_goes_first():
                loaded = self._load(file, current)
                plan = plan_reload(current, loaded.config)
        except ConfigError:
            if settled in (None, _stamp(self._path)):
                raise
            return None
        return (loaded, plan) if settled in (None, _stamp(self._path)) else None

    def _refuse_emptied(self, file: ConfigFile) -> None:
        """Let no disk that is full, and no machine that fails, take away every model.

        Raises:
            ConfigError: if there is nothing left of a file in which there was something.
        """
        if self._had_text and file.absence is None and not file.data:
            message = (
                "the file is empty, as if saving it failed; if you mean it, leave a comment there"
            )
            raise ConfigError((Problem((), message),))

    async def _use(self, loaded: LoadedConfig, plan: ReloadPlan) -> None:
        """Apply a file without mistakes.

        Raises:
            ConfigError: if the system refuses what it asks for, an address for instance.
        """
        replaced = await self._apply(loaded.config, plan)
        changed = plan.restart | plan.retune
        for warning in loaded.warnings:
            log.warning("config.doubted", path=str(self._path), problem=str(warning))
        needs_restart = router_fields_to_restart_for(self._started, loaded.config.router)
        self._tell(
            ReloadReport(
                verdict=Verdict.APPLIED,
                at_s=time.time(),
                warnings=loaded.warnings,
                added=tuple(sorted(plan.add)),
                removed=tuple(sorted(plan.remove)),
                restarted=tuple(sorted(changed & replaced)),
                retuned=tuple(sorted(changed - replaced)),
                needs_router_restart=needs_restart,
            )
        )
        log.info(
            "config.applied",
            path=str(self._path),
            added=list(self.report.added),
            removed=list(self.report.removed),
            restarted=list(self.report.restarted),
            retuned=list(self.report.retuned),
            needs_router_restart=needs_restart,
        )

    def _tell(self, report: ReloadReport) -> None:
        self.report = report
        self._on_report(report)

    def _reject(self, error: ConfigError) -> None:
        self._tell(
            ReloadReport(
                verdict=Verdict.REJECTED,
                at_s=time.time(),
                problems=error.problems,
                warnings=error.warnings,
            )
        )
        problems = [str(problem) for problem in error.problems]
        log.error("config.rejected", path=str(self._path), problems=problems)


def _missing_in(problems: tuple[Problem, ...]) -> tuple[Path, ...]:
    return tuple(Path(problem.missing) for problem in problems if problem.missing is not None)


def _any_exists(paths: tuple[Path, ...]) -> bool:
    return not all(is_missing(path) for path in paths)


def _stamp(path: Path) -> Stamp:
    found = look(path)  # it follows links: what counts is the file at their end
    if isinstance(found, Unseen):
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _fault(path: Path) -> str | None:
    found = look(path)
    return found.reason if isinstance(found, Unseen) and not found.is_missing else None
