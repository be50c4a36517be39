"""The README's two commands in fresh minimal roots of Debian, with the packages that it names.

``python3 -m tests.vm.minimal_root [--quick] [RELEASE ...]``, as root; `.ci/minimal-root` installs
what it needs. The commands run as a plain user, as a newcomer's would. The tests have no network
but loopback. The exit status is 0 only if all commands succeed in all releases.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.vm.debian_root import RELEASES, make_root, run_in

REPOSITORY = Path(__file__).parents[2]

#: The folders of tests that start no process.
QUICK = ("tests/unit", "tests/shell", "tests/docs")

_USER = "1000:1000"
_HOME = "/home/newcomer"

_PACKAGES = re.compile(r"`apt install ([^`]+)`")
_COMMAND = re.compile(r"^python3 -m venv .*$", re.MULTILINE)


def main() -> int:
    """Try every release; return 0 only if all is well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only tests that start no process")
    parser.add_argument("release", nargs="*", help="12, 13 or a name; both by default")
    arguments = parser.parse_args()
    failures: list[str] = []
    for release in arguments.release or list(RELEASES):
        # Where it is large: /tmp may be in memory.
        with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="minimal-root-") as folder:
            failures += try_release(Path(folder, "root"), release, quick=arguments.quick)
    for failure in failures:
        _say(f"FAILED: {failure}")
    return 1 if failures else 0


def try_release(root: Path, release: str, *, quick: bool) -> list[str]:
    """Run the README's commands in a new root of *release*; return what failed."""
    readme = (REPOSITORY / "README.md").read_text()
    [packages] = _PACKAGES.findall(readme)
    demo, test = _COMMAND.findall(readme)
    setup, _, pytest = test.rpartition(" && ")
    scope = " ".join(QUICK) if quick else "tests"
    begun_s = time.monotonic()
    _say(f"Debian {release}: a minimal root with {packages}")
    make_root(root, RELEASES.get(release, release), packages=packages.split())
    _copy_repository(root)
    _say(f"  {time.monotonic() - begun_s:.0f} s")
    failures: list[str] = []
    for command, offline in (
        (f"{demo} --once", False),
        (setup, False),
        (f"{pytest} {scope}", True),
    ):
        begun_s = time.monotonic()
        _say(f"Debian {release}: {command}")
        try:
            run_in(
                root,
                ["sh", "-c", f"cd {_HOME}/llama-router && {command}"],
                user=_USER,
                env={"HOME": _HOME},
                offline=offline,
            )
        except subprocess.CalledProcessError as exc:
            failures.append(f"Debian {release}: {command} (exit status {exc.returncode})")
        _say(f"  {time.monotonic() - begun_s:.0f} s")
    return failures


def _copy_repository(root: Path) -> None:
    """Clone the last commit into the home of a new user of *root*, by the git that is there."""
    home = root / _HOME.lstrip("/")
    home.mkdir()
    bundle = home / "llama-router.bundle"
    subprocess.run(
        ["git", "-C", REPOSITORY, "bundle", "create", "--quiet", bundle, "HEAD"], check=True
    )
    run_in(root, ["useradd", "--no-create-home", "--home-dir", _HOME, "--uid=1000", "newcomer"])
    run_in(root, ["chown", "--recursive", _USER, _HOME])
    clone = ["git", "clone", "--quiet", f"{_HOME}/llama-router.bundle", f"{_HOME}/llama-router"]
    run_in(root, clone, user=_USER, env={"HOME": _HOME})


def _say(text: str) -> None:
    print(f"== {text}" if not text.startswith(" ") else text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
