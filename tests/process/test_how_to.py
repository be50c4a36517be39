"""The commands in the how-to pages about operating a router work as they are written."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import trio

from tests.process.real import (
    LIMIT_S,
    NEEDS_CURL,
    endless_table,
    environment,
    serving,
    write_config,
)

pytestmark = pytest.mark.process

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: A command of its own, so that PATH needs nothing installed.
LAUNCHER = """\
#!/bin/sh
exec {python} -m llama_router "$@"
"""


@pytest.mark.parametrize(
    "page",
    [
        "edit-and-reload.md",
        pytest.param("secure-it.md", marks=NEEDS_CURL),
        pytest.param("llama-cpp-ui.md", marks=NEEDS_CURL),
    ],
)
async def test_the_commands_of_a_page_work(tmp_path, page: str) -> None:
    """One after the other, in the folder of a router whose model is called chat."""
    launcher = tmp_path / "bin" / "llama-router"
    launcher.parent.mkdir()
    launcher.write_text(LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o755)
    config = write_config(tmp_path, endless_table(tmp_path, "chat"), router=["drain_s = 0.5"])
    state = tmp_path / ".local" / "state" / "llama-router"
    config.write_text(config.read_text().replace(f"{tmp_path}/state", str(state)))
    script = "\n".join(BLOCK.findall((HOW_TO / page).read_text()))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            port = router.url.rpartition(":")[2]
            done = await trio.run_process(
                ["bash", "-euo", "pipefail", "-c", script.replace(":8082", f":{port}")],
                cwd=tmp_path,
                env=environment(
                    HOME=str(tmp_path), PATH=f"{launcher.parent}:{os.environ['PATH']}",
                    XDG_STATE_HOME="",
                ),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert script.count("llama-router") >= 2
