"""``install-unit`` warns of a program that the service's own user could not run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_router.cli.commands import install_unit

PROGRAM = Path("/opt/llama-router/bin/llama-router")


@pytest.mark.parametrize(
    ("modes", "warning"),
    [
        ({}, None),
        ({"/opt/llama-router": 0o40700}, "cannot enter /opt/llama-router, where"),
        ({"/opt/llama-router/bin/llama-router": 0o100700}, f"cannot run {PROGRAM};"),
        ({"/opt/llama-router/bin/llama-router": 0o100744}, f"cannot run {PROGRAM};"),
    ],
)
def test_an_umask_that_keeps_others_out_is_noticed(
    monkeypatch: pytest.MonkeyPatch, modes: dict[str, int], warning: str | None
) -> None:
    """The folder and the program were made with it."""

    def look(path: Path) -> os.stat_result:
        default = 0o100755 if path == PROGRAM else 0o40755
        return os.stat_result((modes.get(str(path), default), *[0] * 9))

    monkeypatch.setattr(install_unit, "look", look)
    monkeypatch.setattr(install_unit, "resolved", lambda path: path)
    said = install_unit._access_warning(PROGRAM)
    assert said is None if warning is None else warning in (said or "")
