"""Runs checks one after another and reports each as a line of JSON: ``run.py FILE CHECK ...``.

FILE is a serial port. Each check is a program: it succeeds if its exit status is 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent

#: The seconds that one check may take.
LIMIT_S = 600


def main(file: str, checks: list[str]) -> None:
    """Run *checks*."""
    with Path(file).open("w") as report:
        for check in checks:
            begun_s = time.monotonic()
            try:
                done = subprocess.run(
                    [sys.executable, "-m", f"tests.vm.guest.{check}"],
                    check=False,
                    cwd=FOLDER.parents[2],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=LIMIT_S,
                )
                status, output = done.returncode, done.stdout
            except subprocess.TimeoutExpired as exc:
                output = (exc.stdout or b"").decode(errors="replace")
                status, output = -1, f"{output}\nit took more than {LIMIT_S} s"
            if status:
                journal = ["journalctl", "--no-pager", "--lines=60", "--unit=llama-router"]
                output += (
                    "\n"
                    + subprocess.run(journal, check=False, capture_output=True, text=True).stdout
                )
            line = {
                "check": check,
                "ok": status == 0,
                "took_s": round(time.monotonic() - begun_s, 1),
                "output": output[-20_000:],
            }
            report.write(json.dumps(line) + "\n")
            report.flush()


main(sys.argv[1], sys.argv[2:])
