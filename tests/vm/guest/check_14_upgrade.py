"""The commands of the how-to bring the service up to date, and it runs again."""

import re

from tests.vm.guest.tools import REPOSITORY, chat, follow, guide, main_pid, run, running

running()
router = main_pid()
source = REPOSITORY / "llama_router/__init__.py"
source.write_text(re.sub(r'__version__ = ".*"', '__version__ = "99.1.2"', source.read_text()))
[commands] = guide("Upgrade")
follow(commands)
assert main_pid() != router
assert "99.1.2" in run("sudo", "llama-router", "status")
assert chat("plain")[0] == 200
