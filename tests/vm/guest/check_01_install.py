"""The commands of the how-to install and start the service; it is ready when its model is."""

from tests.vm.guest.tools import ask, follow, guide, pids, run, show

follow(guide("For the whole machine")[1])
assert show("ActiveState") == "active"
assert show("Type") == "notify"
assert "running: plain" in show("StatusText")
assert "plain" in pids()
assert ask("/livez")[0] == 200
assert run("systemd-analyze", "verify", "/etc/systemd/system/llama-router.service") == ""
run("systemd-analyze", "security", "--threshold=25", "--no-pager", "llama-router")
