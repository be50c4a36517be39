"""The commands of the how-to remove the service."""

from pathlib import Path

from tests.vm.guest.tools import DROP_INS, Ending, follow, guide, main_pid, pids, run, running, show

running()
endings = [Ending(pid) for pid in (main_pid(), *pids().values())]
[commands] = guide("Remove it")
follow(commands)
for ending in endings:
    ending.wait(0)
(DROP_INS / "check.conf").unlink(missing_ok=True)
DROP_INS.rmdir()
run("systemctl", "daemon-reload")
assert show("LoadState") == "not-found"
assert not Path("/opt/llama-router").exists()
assert Path("/etc/llama-router/router.toml").exists()
assert Path("/var/lib/private/llama-router").is_dir()
