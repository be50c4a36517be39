"""The service of a user, in the session of one that is not logged in."""

import json
import pwd
from pathlib import Path

from tests.vm.guest.tools import CONFIGURATION, ask, guide, run, running

running()
run("systemctl", "stop", "llama-router")
run("useradd", "--create-home", "--shell=/bin/bash", "someone")
user = pwd.getpwnam("someone")
run("loginctl", "enable-linger", "someone")
run("systemctl", "start", f"user@{user.pw_uid}.service")
env = {"XDG_RUNTIME_DIR": f"/run/user/{user.pw_uid}", "HOME": user.pw_dir}


def as_user(line: str) -> str:
    """Run a line of the how-to as the user."""
    return run("runuser", "-u", "someone", "--", "bash", "-c", f"cd; {line}", env=env)


[lines] = guide("For yourself")
for line in lines:
    if line.startswith("systemctl --user enable"):
        file = Path(user.pw_dir, ".config/llama-router/router.toml")
        hidden = Path(user.pw_dir, "hidden.pid")
        file.write_text(CONFIGURATION.replace("/var/lib/llama-router/hidden.pid", str(hidden)))
    if not line.startswith("loginctl"):  # done above, as root
        as_user(line)
assert as_user("systemctl --user is-active llama-router").strip() == "active"
assert ask("/livez")[0] == 200
listed = {model["id"]: model for model in json.loads(as_user("llama-router ps --json"))}
owner = Path(f"/proc/{listed['plain']['pid']}").stat().st_uid
assert owner == user.pw_uid
as_user("systemctl --user reload llama-router")
as_user("systemctl --user disable --now llama-router")
run("loginctl", "disable-linger", "someone")
running("")
