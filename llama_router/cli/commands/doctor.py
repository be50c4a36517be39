"""``doctor``: one page about this machine, its configuration and what is wrong, with cures."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from functools import partial
from typing import Final

import trio

from ...backends.server_programs import ServerPrograms
from ...build_kind import version_line
from ...config.locations import state_dir_for
from ...dispatch.memory_watch import read_once
from ...files.stalls import despite_stalls
from ...logs.lines import escape_controls
from .. import doctor as look_at
from ..config_loading import survey_or_explain
from ..doctor import Finding, Verdict
from ..options import Config, Connection, Json
from ..printing import print_json, print_line, print_styled
from ..tables import Cell
from ..terminal import columns, wrapped

_STYLES: Final[dict[Verdict, tuple[str, ...]]] = {
    Verdict.OK: ("green",),
    Verdict.NOTE: ("dim",),
    Verdict.WARNING: ("yellow",),
    Verdict.ERROR: ("red", "bold"),
}


def doctor(*, config: Config = None, json: Json = False) -> int:
    """Look at programs, devices, disks and configuration, and say what to do about faults.

    It changes nothing. The exit status is 1 if something is wrong; warnings do not change it.

    Args:
        config: Configuration file. Default: the one that ``serve`` would use.
        json: Print JSON.
    """
    found = [Finding(topic="llama-router", text=_versions())]
    prepared = survey_or_explain(config)
    if prepared is None:
        found.append(
            Finding(
                topic="configuration",
                verdict=Verdict.ERROR,
                text="it cannot be used",
                cure="mend what is said above; 'llama-router check' says whether it is right",
            )
        )
    else:
        loaded = prepared.loaded
        state_dir = state_dir_for(loaded.config.router.state_dir, os.environ)
        programs = ServerPrograms(os.environ)
        found += despite_stalls(lambda: list(look_at.about_configuration(loaded.path, loaded)))
        found += look_at.about_programs(trio.run(programs.ask, loaded.config))
        found += look_at.about_memory(
            *trio.run(partial(read_once, loaded.config, os.environ, state_dir))
        )
        found += despite_stalls(lambda: list(look_at.about_disks(state_dir, os.environ)))
        found += look_at.about_router(loaded.config, Connection(config=config), os.environ)
        found += despite_stalls(lambda: list(look_at.about_access(loaded.config)))
        found += despite_stalls(lambda: list(look_at.about_service(loaded.config)))
    if json:
        print_json(
            [
                {"topic": f.topic, "verdict": f.verdict.value, "text": f.text, "cure": f.cure}
                for f in found
            ]
        )
    else:
        _print(found)
    return 1 if any(each.verdict is Verdict.ERROR for each in found) else 0


def _versions() -> str:
    system = f"{platform.system()} {platform.release()} on {platform.machine()}"
    return f"{version_line()}, {system}"


def _print(found: Iterable[Finding]) -> None:
    width = columns() if sys.stdout.isatty() else None
    topic = ""
    for each in found:
        if each.topic != topic:
            topic = each.topic
            print_styled([Cell(topic, ("bold",))])
        verdict = f"  {each.verdict.value:<8}"
        lines = _lines(each.text, len(verdict), width)
        print_styled([Cell(verdict, _STYLES[each.verdict]), Cell(lines[0])])
        for line in lines[1:]:
            print_line(" " * len(verdict) + line)
        if each.cure:
            for line in _lines(each.cure, len(verdict) + 3, width, first="-> "):
                print_styled([Cell(" " * len(verdict) + line, ("cyan",))])


def _lines(text: str, indent: int, width: int | None, *, first: str = "") -> list[str]:
    """Return *text* as lines beside an indentation; the further ones stand below the first."""
    clean = escape_controls(text)
    if width is None:
        return [first + clean]
    lines = wrapped(clean, width=max(20, width - indent))
    return [first + lines[0], *(" " * len(first) + line for line in lines[1:])]
