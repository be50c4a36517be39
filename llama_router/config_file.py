"""``router.toml`` on disk: reading it, the lines of its keys, and the files that it names."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tomllib
from bisect import bisect_right
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from .core.config import placeholders
from .core.config.model_spec import DEFAULT_SPAWN
from .core.config.overlay import Found, Overlaid, overlay
from .core.config.parse import parse_config
from .core.config.router_spec import RouterSpec
from .core.config.whole import Config
from .errors.config import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_Where = tuple[str | int, ...]

# Only what tomllib itself puts at the end of its sentences.
_TOML_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@attrs.frozen(kw_only=True)
class LoadedConfig:
    """A configuration that can be used.

    Attributes:
        config: Every file in it is an absolute path.
        warnings: What does not prevent its use, in the order of the file.
        path: Where it was read from, absolute.
        as_written: ``[router]`` as the file has it, whatever the command line overrides.
        digest: SHA-256 of the file.
    """

    config: Config
    warnings: tuple[Problem, ...]
    path: Path
    as_written: RouterSpec
    digest: bytes = b""


def default_config_path(environ: Mapping[str, str]) -> list[Path]:
    """Return where ``router.toml`` is looked for, in this order.

    The working folder is first, then ``$XDG_CONFIG_HOME/llama-router``, or
    ``~/.config/llama-router`` where that variable is not an absolute path.
    """
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():
        base = Path(environ.get("HOME") or Path("~").expanduser()) / ".config"
    return [Path("router.toml"), base / "llama-router" / "router.toml"]


def state_dir_for(config_dir: str | None, environ: Mapping[str, str]) -> Path:
    """Return where this router keeps its state.

    Args:
        config_dir: ``router.state_dir``, if it is set.
        environ: ``STATE_DIRECTORY`` (set by systemd), ``XDG_STATE_HOME`` and ``HOME`` count.
    """
    if config_dir is not None:
        return Path(config_dir)
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    base = Path(environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser())
    return base / "llama-router"


def load_config(
    path: Path,
    *,
    found: Found | None = None,
    running: bool = False,
    optional: bool = False,
    data: bytes | None = None,
) -> LoadedConfig:
    """Read *path* and check it against itself and the file system. Blocks on files.

    Relative file names are resolved against the folder that *path* is in, and
    ``~`` is expanded.

    Args:
        path: The file.
        found: Models that a scan found; *path* overlays them field by field. Nothing in
            them makes the configuration unusable.
        running: It is for a router that runs already, see `overlay`.
        optional: No file is the same as an empty one.
        data: What the file is to hold; None for what it holds.

    Raises:
        ConfigError: with every problem at once, in the order of the file, each
            with its line where it has one.
    """
    try:
        path = path.absolute()
    except FileNotFoundError:
        message = f"cannot find {path}: the working directory no longer exists"
        raise ConfigError((Problem((), message),)) from None
    if data is None:
        data = b"" if optional and not path.exists() else _read(path)
    digest = hashlib.sha256(data).digest()
    try:
        return _checked(path, _decoded(data), digest, found, running=running)
    except ConfigError as exc:
        exc.digest = digest
        raise


def _checked(
    path: Path, text: str, digest: bytes, found: Found | None, *, running: bool
) -> LoadedConfig:
    document = _parse(text)
    files = _Files(path.parent)
    files.resolve(document)
    problems = files.problems
    doubts: list[Problem] = []
    try:
        if found is None:
            config = parse_config(document)
        else:
            config = _parse_overlaid(document, found, doubts, running=running)
    except ConfigError as exc:
        raise _refusal(text, [*problems, *exc.problems], [*files.warnings, *doubts]) from None
    if problems:
        raise _refusal(text, problems, [*files.warnings, *doubts])
    exposed = _exposed_secrets(path, document)
    warnings = _in_file_order(text, [*files.warnings, *doubts, *_doubts(config), *exposed])
    return LoadedConfig(
        config=config, warnings=warnings, path=path, as_written=config.router, digest=digest
    )


def _refusal(text: str, problems: list[Problem], doubts: list[Problem]) -> ConfigError:
    """Return the error of a file that has *problems*.

    What has a problem inside is not also doubted: the one may be the reason for the other.
    """
    other = [
        doubt
        for doubt in doubts
        if not doubt.path
        or all(problem.path[: len(doubt.path)] != doubt.path for problem in problems)
    ]
    return ConfigError(_in_file_order(text, problems), _in_file_order(text, other))


def _parse_overlaid(
    document: dict[str, Any], found: Found, doubts: list[Problem], *, running: bool
) -> Config:
    """Parse *document* over what was found; what does not fit of the latter is left out.

    Raises:
        ConfigError: with what is wrong in *document*.
    """
    file_of = {
        name: identity
        for name, table in _tables(document, "models")
        if (identity := identity_of(table.get("path"))) is not None
    }
    while True:
        overlaid = overlay(document, found, file_of=file_of, running=running)
        try:
            config = _parse_whole(overlaid)
        except ConfigError as exc:
            unfit = {
                str(problem.path[1]): problem
                for problem in exc.problems
                if len(problem.path) > 1 and problem.path[1] in overlaid.found_only
            }
            if not unfit:
                doubts += overlaid.doubts
                raise
            doubts += (Problem((), f"{p.location}: {p.message}") for p in unfit.values())
            models = {name: table for name, table in found.models.items() if name not in unfit}
            found = attrs.evolve(found, models=models)
        else:
            doubts += overlaid.doubts
            return config


def _parse_whole(overlaid: Overlaid) -> Config:
    """Parse a document; say what is wrong in the models that were left out of it, too.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems: list[Problem] = []
    config: Config | None = None
    if overlaid.left_out:
        try:
            parse_config(overlaid.with_left_out())
        except ConfigError as exc:
            problems += exc.problems
    try:
        config = parse_config(overlaid.document)
    except ConfigError as exc:
        said = {(problem.path, problem.message) for problem in problems}
        problems += (p for p in exc.problems if (p.path, p.message) not in said)
    if config is None or problems:
        raise ConfigError(tuple(problems))
    return config


def identity_of(path: object) -> object:
    """Return what two names of one file have in common; None if there is no such file."""
    if not isinstance(path, str):
        return None
    try:
        info = os.stat(path)  # noqa: PTH116 -- there may be thousands; a Path costs more than this
    except (OSError, ValueError):
        return None
    return (info.st_dev, info.st_ino)


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a FIFO would wait for a writer
            raise ConfigError((Problem((), f"cannot read {path}: it is not a file"),))
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError((Problem((), f"cannot read {path}: {exc.strerror}"),)) from exc


def _decoded(data: bytes) -> str:
    try:
        # Some editors begin a UTF-8 file with a byte order mark; it means nothing.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError((Problem((), "not UTF-8 text", line),)) from exc


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as exc:
        raise ConfigError((Problem((), "arrays or tables are nested too deeply"),)) from exc
    except ValueError as exc:  # TOMLDecodeError, or int() that refuses thousands of digits
        message = str(exc)
        line = None
        if position := _TOML_POSITION.search(message):
            message = message[: position.start()]
            line = int(position[1] or len(text.splitlines()))
        raise ConfigError((Problem((), f"not valid TOML: {message}", line),)) from exc


def _in_file_order(text: str, problems: Iterable[Problem]) -> tuple[Problem, ...]:
    problems = tuple(problems)
    if not problems:
        return ()  # finding the lines takes as long as everything else
    lines = _LineFinder(text).lines
    for problem in problems:
        # A key that is not in the file is looked for where it would have to be.
        places = (problem.path[:depth] for depth in range(len(problem.path), 0, -1))
        problem.line = next((lines[place] for place in places if place in lines), None)
    return tuple(sorted(problems, key=lambda problem: problem.line or 0))


def _doubts(config: Config) -> Iterator[Problem]:
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
    if (first := next(defaults, None)) and (doubt := _missing_on_path(DEFAULT_SPAWN.command[0])):
        yield Problem(("models", first), doubt)


def _exposed_secrets(path: Path, document: dict[str, Any]) -> Iterator[Problem]:
    """Yield the first secret in the file, if every user of the machine may read it."""
    places: list[_Where] = [("router", "admin_token")]
    places += [("api_keys", name, "key") for name, _ in _tables(document, "api_keys")]
    for section, *keys in places:
        found: object = document.get(str(section))
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is None:
            continue
        with suppress(OSError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & stat.S_IROTH:
                cure = "keep its 'sha256' instead" if keys[-1] == "key" else "leave it out"
                message = (
                    "every user of this machine may read it, because the file's mode is "
                    f"{mode:04o}: {cure}, or let only the router's user read the file"
                )
                yield Problem((section, *keys), message)
        return


def _missing_on_path(program: str) -> str | None:
    """Say so if a bare *program* name leads to nothing that could be run now."""
    if shutil.which(program) is not None:
        return None
    if program != "llama-server":
        return f"there is no program {program!r} on PATH"
    beside = Path(sys.executable).parent / program
    if os.access(beside, os.X_OK) or find_spec("xllamacpp") is not None:
        return None
    return (
        "there is no program 'llama-server' on PATH or beside llama-router, "
        "and the embedded server (package xllamacpp) is not installed"
    )


class _Files:
    """Makes the file names in a document absolute, and says which of them are unusable.

    Works on the document as it was written, so that each problem belongs to the
    key that has the name; what has a wrong type is left for `parse_config`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def resolve(self, document: dict[str, Any]) -> None:
        """Change *document* in place."""
        if isinstance(router := document.get("router"), dict):
            self._make_absolute(router, "state_dir", ("router",), _future_folder_fault)
            self._resolve_folders(router)
        spawns: list[tuple[_Where, object]] = [(("default_spawn",), document.get("default_spawn"))]
        spawns += [(("templates", name), table) for name, table in _tables(document, "templates")]
        for name, model in _tables(document, "models"):
            where: _Where = ("models", name)
            self._make_absolute(model, "path", where, _model_fault)
            self._make_absolute(model, "mmproj", where, _readable_fault)
            spawns.append(((*where, "spawn"), model.get("spawn")))
        for place, spawn in spawns:
            if isinstance(spawn, dict):
                self._make_absolute(spawn, "cwd", place, _folder_fault)
                self._resolve_program(spawn.get("command"), (*place, "command", 0))

    def _resolve_folders(self, router: dict[str, Any]) -> None:
        """Make ``models_dirs`` absolute; one that is not there, like a disk, may come back."""
        written = router.get("models_dirs")
        if not isinstance(written, list):
            return
        first_problem = len(self.problems)
        router["models_dirs"] = [
            self._checked(name, ("router", "models_dirs", index), _folder_fault)
            if isinstance(name, str) and name and "\0" not in name
            else name
            for index, name in enumerate(written)
        ]
        self.warnings += self.problems[first_problem:]
        del self.problems[first_problem:]

    def _make_absolute(
        self,
        table: dict[str, Any],
        key: str,
        where: _Where,
        fault_of: Callable[[Path], str | None],
    ) -> None:
        written = table.get(key)
        if isinstance(written, str) and written and "\0" not in written:
            table[key] = self._checked(written, (*where, key), fault_of)

    def _resolve_program(self, command: object, where: _Where) -> None:
        if not isinstance(command, list) or not command or not isinstance(command[0], str):
            return
        try:
            if placeholders.names_in(command[0]):
                return  # known only when a model is started
        except ValueError:
            return
        program = placeholders.expand(command[0], {})
        if "\0" in program or not program:
            return
        if "/" in program:
            command[0] = placeholders.escape(self._checked(program, where, _program_fault))
        elif doubt := _missing_on_path(program):
            self.warnings.append(Problem(where, doubt))

    def _checked(self, written: str, where: _Where, fault_of: Callable[[Path], str | None]) -> str:
        """Return *written* as an absolute path; report what is wrong with the file."""
        path = self._folder / written
        missing = None
        try:
            path = self._folder / Path(written).expanduser()
            fault = fault_of(path)
        except RuntimeError:
            fault = "its home folder is unknown"
        except OSError as exc:
            fault = exc.strerror
            missing = str(path) if exc.errno == errno.ENOENT else None
        if fault:
            self.problems.append(Problem(where, f"{path}: {fault}", missing=missing))
        return str(path)


def _tables(document: dict[str, Any], section: str) -> list[tuple[str, dict[str, Any]]]:
    tables = document.get(section)
    items = tables.items() if isinstance(tables, dict) else ()
    return [(name, table) for name, table in items if isinstance(table, dict)]


# Each says what prevents the use of a path, or raises OSError to the same effect.


def _readable_fault(path: Path) -> str | None:
    if not stat.S_ISREG(path.stat().st_mode):
        return "not a file"
    return None if os.access(path, os.R_OK) else "not readable for this user"


def _model_fault(path: Path) -> str | None:
    """Allow a folder, too: that is what a model is for vLLM and its like."""
    if stat.S_ISDIR(path.stat().st_mode):
        return None if os.access(path, os.R_OK | os.X_OK) else "not readable for this user"
    return _readable_fault(path)


def _program_fault(path: Path) -> str | None:
    if not stat.S_ISREG(path.stat().st_mode):
        return "not a file"
    return None if os.access(path, os.X_OK) else "not executable for this user"


def _folder_fault(path: Path) -> str | None:
    return None if stat.S_ISDIR(path.stat().st_mode) else "not a folder"


def _future_folder_fault(path: Path) -> str | None:
    """Allow a folder that is not there yet: the router makes it."""
    try:
        return _folder_fault(path)
    except FileNotFoundError:
        return None


class _LineFinder:
    """Finds the line of every key and array element in a text that tomllib has accepted.

    Attributes:
        lines: 1-based line by path. A table has the line of its header, or of
            its first mention where it has none.
    """

    _BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
    _KEY = re.compile(r"""[ \t]*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*""")
    # Strings of several lines may end in up to five quotes, two of them text.
    _SCALAR = re.compile(
        r'''"""(?:[^\\]|\\.)*?""""{0,2}|\'\'\'.*?\'\'\'\'{0,2}'''
        r"""|"(?:[^"\\]|\\.)*"|'[^']*'|[^,\]}#\n]+""",
        re.DOTALL,
    )

    def __init__(self, text: str) -> None:
        self.lines: dict[_Where, int] = {}
        self._text = text
        self._at = 0
        self._line_ends = [end.start() for end in re.finditer("\n", text)]
        self._last_index: dict[_Where, int] = {}  # of each [[array of tables]]
        table: _Where = ()
        while self._next() != "":
            if self._accept("["):
                table = self._header()
            else:
                self._pair(table)

    def _next(self) -> str:
        """Skip blanks, line ends and comments; return the character after them."""
        self._take(self._BLANK)
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        assert found is not None, "tomllib has accepted this text"
        self._at = found.end()
        return found

    def _accept(self, character: str) -> bool:
        if self._text.startswith(character, self._at):
            self._at += 1
            return True
        return False

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while not keys or self._accept("."):
            key = self._take(self._KEY)[1]
            keys.append(tomllib.loads(f"key = {key}")["key"] if key[0] in "'\"" else key)
        return keys

    def _mention(self, path: _Where, *, since: int, line: int) -> None:
        """Give *path* its line, and those of its parents after *since* that have none."""
        for depth in range(since + 1, len(path)):
            self.lines.setdefault(path[:depth], line)
        self.lines[path] = line

    def _line(self) -> int:
        return bisect_right(self._line_ends, self._at - 1) + 1

    def _header(self) -> _Where:
        line, is_element = self._line(), self._accept("[")
        *parents, last = self._keys()
        self._at += 2 if is_element else 1
        path: _Where = ()
        for key in parents:
            path = (*path, key)
            if path in self._last_index:
                path = (*path, self._last_index[path])
        path = (*path, last)
        if is_element:
            self._last_index[path] = self._last_index.get(path, -1) + 1
            path = (*path, self._last_index[path])
        self._mention(path, since=0, line=line)
        return path

    def _pair(self, table: _Where) -> None:
        line = self._line()
        path = (*table, *self._keys())
        self._mention(path, since=len(table), line=line)
        self._accept("=")
        self._value(path)

    def _value(self, path: _Where) -> None:
        self._next()
        if self._accept("["):
            index = 0
            while self._next() != "]":
                element = (*path, index)
                self._mention(element, since=len(path), line=self._line())
                self._value(element)
                self._next()
                index += self._accept(",")
            self._accept("]")
        elif self._accept("{"):
            while self._next() != "}":
                self._pair(path)
                self._next()
                self._accept(",")
            self._accept("}")
        else:
            self._take(self._SCALAR)
