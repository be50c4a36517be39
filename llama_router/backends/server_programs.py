"""The llama-server programs that serve: their versions, and the devices that they see.

Version and devices are what the program itself says (``--version``, ``--list-devices``). It is
asked for devices only where the machine has a GPU: without one there is nothing to miss.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import trio

from ..core.config.command import environment
from ..core.config.config import Config
from ..core.config.kinds import is_llama_server
from ..core.config.placeholders import expand, names_in
from ..core.config.specs import ModelSpec
from ..errors.backends import SpawnError
from ..errors.causes import Cause
from ..logs.events import log
from .diagnosis import diagnose
from .environment import embedded_version, find_program, inherited

#: Seconds that a program may take to answer: a driver may have to load first.
ANSWER_TIMEOUT_S: Final = 30.0

#: Most programs that are asked; a configuration rarely names more than one.
MAX_PROGRAMS: Final = 8

#: What the embedded server is called where others have a path.
EMBEDDED: Final = "the embedded server (xllamacpp)"

_VERSION: Final = re.compile(r"^version: *(\S.*)$", re.MULTILINE)
_DEVICES: Final = re.compile(r"^Available devices:\n((?:[ \t]+.*(?:\n|\Z))*)", re.MULTILINE)

# Listed like a device, but computes on the CPU.
_NO_GPU: Final = ("(none)", "BLAS", "CPU")

# Causes that end a program whatever its arguments are.
_BROKEN: Final = frozenset(
    (
        Cause.COMMAND_MISSING,
        Cause.ILLEGAL_INSTRUCTION,
        Cause.LIBRARY_MISSING,
        Cause.MODULE_MISSING,
    )
)

# The vendors of GPUs, as in /sys/class/drm/card0/device/vendor.
_AMD: Final = "0x1002"
_INTEL: Final = "0x8086"

# An integrated GPU of AMD has less of its own; models do not fit there.
_MIN_VRAM_BYTES: Final = 2**30


@attrs.frozen(kw_only=True)
class ServerProgram:
    """A llama-server program.

    Attributes:
        program: Its path, or `EMBEDDED`.
        version: Its version, in its own words; None if it did not say.
        devices: The devices that it sees beside the CPU; None if it was not asked or did not say.
        fault: Why it cannot serve, and what to do; None if nothing is known to be wrong.
        warning: Why it computes on the CPU though the machine has a GPU; None if it does not.
    """

    program: str
    version: str | None = None
    devices: tuple[str, ...] | None = None
    fault: str | None = None
    warning: str | None = None

    def describe(self) -> str:
        """Return it in words, for people."""
        words = [self.program, f"version {self.version or 'unknown'}"]
        if self.devices is not None:
            words.append(f"devices: {', '.join(self.devices) or 'none but the CPU'}")
        return ", ".join(words)


class ServerPrograms:
    """Asks the llama-server programs of a configuration, and keeps the answers.

    Args:
        environ: The router's environment.
        root: The root of the file system; another one in tests.
    """

    def __init__(self, environ: Mapping[str, str], *, root: Path = Path("/")) -> None:
        self._environ = environ
        self._root = root
        self._known: dict[tuple[str, ...], ServerProgram] = {}
        self._current: tuple[tuple[str, ...], ...] = ()
        self._words: dict[str, tuple[str, ...]] = {}
        self._changed = trio.Event()

    @property
    def programs(self) -> tuple[ServerProgram, ...]:
        """Those that have answered, in the order of their models."""
        return tuple(self._known[words] for words in self._current if words in self._known)

    def devices_of(self, spec: ModelSpec) -> tuple[str, ...] | None:
        """Return the devices that the program of a model sees; None if that is not known."""
        found = self._known.get(self._words.get(spec.spawn.command[0], ()))
        return None if found is None else found.devices

    async def run(self, config: Callable[[], Config]) -> None:
        """Ask the programs of *config* now and after each `configuration_changed`; log answers."""
        while True:
            self._changed = trio.Event()
            for found in await self.ask(config()):
                log.info(
                    "backend.program",
                    program=found.program,
                    version=found.version,
                    devices=found.devices,
                )
                if found.fault is not None:
                    log.warning("backend.program_broken", program=found.program, reason=found.fault)
                if found.warning is not None:
                    log.warning("backend.gpu_unused", program=found.program, reason=found.warning)
            await self._changed.wait()

    def configuration_changed(self) -> None:
        """Let `run` ask programs that are new in the configuration."""
        self._changed.set()

    async def ask(self, config: Config) -> tuple[ServerProgram, ...]:
        """Ask each program of *config* that has not been asked, and return their answers."""
        specs = self._served(config)
        self._current = tuple(specs)
        gpus = gpus_of_machine(self._root)
        new = [words for words in specs if words not in self._known]
        for words in new:
            env = inherited(self._environ) | environment(specs[words], port=0, host="")
            found = await ask_program(words, env, has_gpu=bool(gpus))
            hidden = any(name.endswith("VISIBLE_DEVICES") for name in env)
            warning = None if hidden else unused_gpu(found, gpus)
            self._known[words] = attrs.evolve(found, warning=warning)
        return tuple(self._known[words] for words in new)

    def _served(self, config: Config) -> dict[tuple[str, ...], ModelSpec]:
        """Return the words that run each llama-server of *config*, with its first model."""
        specs: dict[tuple[str, ...], ModelSpec] = {}
        for written, spec in _first_models(config.local.models.values()).items():
            with suppress(SpawnError):  # the start of the model reports it
                found = find_program((expand(written, {}),), path=spec.spawn.env.get("PATH"))
                specs.setdefault(found.argv, spec)
                self._words[written] = found.argv
        return dict(list(specs.items())[:MAX_PROGRAMS])


def _first_models(specs: Iterable[ModelSpec]) -> dict[str, ModelSpec]:
    """Return each llama-server, as it is written, with the first model that it serves."""
    first: dict[str, ModelSpec] = {}
    for spec in specs:
        program = spec.spawn.command[0]
        if program not in first and is_llama_server(program) and not names_in(program):
            first[program] = spec
    return first


async def ask_program(
    words: tuple[str, ...], env: Mapping[str, str], *, has_gpu: bool
) -> ServerProgram:
    """Return what the program that *words* run says about itself.

    Args:
        words: The program, and its first arguments.
        env: Its environment.
        has_gpu: Ask for devices, too.
    """
    status, output = await _run(words, "--version", env)
    version: str | None
    if words[0] == sys.executable:
        # The one that llama.cpp's part says is that of an unknown commit.
        program, version = EMBEDDED, embedded_version()
    else:
        program, match = words[0], _VERSION.search(output)
        version = None if match is None else match[1].strip()
    if fault := fault_in(program, status, output):
        return ServerProgram(program=program, version=version, fault=fault)
    devices = devices_in((await _run(words, "--list-devices", env))[1]) if has_gpu else None
    return ServerProgram(program=program, version=version, devices=devices)


def fault_in(program: str, status: int, output: str) -> str | None:
    """Return why *program* cannot serve, if the end of ``--version`` shows it.

    Not every program knows the option: only what would end a backend as well is a fault.

    Args:
        program: The program.
        status: The exit status.
        output: What was printed.
    """
    found = diagnose(status, output.splitlines())
    if found.cause not in _BROKEN:
        return None
    # The embedded server names itself in its own sentence.
    return found.sentence if program == EMBEDDED else f"{program}: {found.sentence}"


async def _run(words: tuple[str, ...], option: str, env: Mapping[str, str]) -> tuple[int, str]:
    """Return the exit status of a program for *option*, and its output.

    They are 0 and empty if it cannot be run, or takes too long.
    """
    with trio.move_on_after(ANSWER_TIMEOUT_S), suppress(OSError):
        done = await trio.run_process(
            [*words, option],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            env=dict(env),
            deliver_cancel=_kill,
        )
        return done.returncode, done.stdout.decode(errors="replace")
    return 0, ""


async def _kill(process: trio.Process) -> None:
    process.kill()


def unused_gpu(found: ServerProgram, gpus: Sequence[str]) -> str | None:
    """Return a warning if the machine has *gpus*, and a program that works sees none."""
    if not gpus or found.devices is None or found.devices:
        return None
    return (
        f"this machine has a GPU ({', '.join(gpus)}), but {found.program} sees none and computes "
        "on the CPU; name a llama-server that was built for it in llama_server of [router]"
    )


def devices_in(output: str) -> tuple[str, ...] | None:
    """Return the GPUs in the output of ``--list-devices``; None if it is no such list."""
    found = _DEVICES.search(output)
    if found is None:
        return None
    lines = (line.strip() for line in found[1].splitlines())
    return tuple(line for line in lines if line and not line.startswith(_NO_GPU))


def gpus_of_machine(root: Path = Path("/")) -> tuple[str, ...]:
    """Return the GPUs of this machine that models may run on, as far as their drivers tell.

    Integrated ones are left out, and those without a device node here (in a container).
    """
    gpus: list[str] = []
    with suppress(OSError):
        if any((root / "dev").glob("nvidia[0-9]*")):
            gpus += _nvidia(root / "proc/driver/nvidia/gpus")
    with suppress(OSError):
        if any((root / "dev/dri").glob("renderD*")):
            gpus += _others(root / "sys/class/drm")
    return tuple(gpus)


def _nvidia(folder: Path) -> Iterable[str]:
    for gpu in sorted(folder.iterdir()):
        found = re.search(r"^Model:\s*(.+)$", (gpu / "information").read_text(), re.MULTILINE)
        yield found[1].strip() if found else "NVIDIA"


def _others(folder: Path) -> Iterable[str]:
    for card in sorted(folder.glob("card[0-9]*")):
        device = card / "device"
        if "-" in card.name:  # a connector
            continue
        with suppress(OSError, ValueError):
            vendor = (device / "vendor").read_text().strip()
            if (
                vendor == _AMD
                and int((device / "mem_info_vram_total").read_text()) > _MIN_VRAM_BYTES
            ):
                yield "AMD"
            # On its first bus, Intel's is part of the processor.
            elif vendor == _INTEL and not Path(os.path.realpath(device)).name.startswith(
                "0000:00:"
            ):
                yield "Intel"
