"""The OpenAPI document and the admin API say the same: schemathesis tries to prove otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import trio

from tests.limits import LIMIT_S
from tests.process.real import alive, endless_table, serving, write_config

pytestmark = pytest.mark.process

#: What does not fit. Our own tests look at tokens, with two ways to send one; a body may be
#: refused although its parts are right, and 1.0 is no integer here.
UNFIT = "ignored_auth,positive_data_acceptance"


async def test_schemathesis_finds_nothing(tmp_path) -> None:
    """Every answer to valid and to broken requests is one that the document announces."""
    # Nothing that is tried may leave this machine, or touch the caches of whoever runs this.
    router = ["allowed_hosts = ['127.0.0.1']", "scan_caches = false", "drain_s = 0.5"]
    config = write_config(tmp_path, endless_table(tmp_path, "a"), router=router)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", "--checks=all"),
        *("--max-examples=12", f"--exclude-checks={UNFIT}", "--generation-deterministic"),
        *("--phases=coverage,fuzzing", "--no-color", "--suppress-health-check=all"),
        # Not answers without an end, nor those that take a process each.
        *("--exclude-path-regex=/(events|hub|logs|router-log|downloads?)", "--request-timeout=10"),
    ]
    elsewhere: dict[str, Any] = {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "LLAMA_CACHE": str(tmp_path / "cache"),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody listens there
    }
    with trio.fail_after(LIMIT_S):
        async with serving(config, **elsewhere) as running:
            token = (tmp_path / "state" / "admin-token").read_text().strip()
            command += [f"{running.url}/admin/openapi.json", f"--header=X-Admin-Token: {token}"]
            done = await trio.run_process(
                command,
                check=False,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                cwd=tmp_path,
                env={**os.environ, "SCHEMATHESIS_HOOKS": ""},
            )
            assert done.returncode == 0, done.stdout.decode()
            assert running.named("control.crashed") == []
    assert alive({}) == set()
