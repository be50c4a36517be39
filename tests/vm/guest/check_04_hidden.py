"""A process that left its session and its parent ends with its backend."""

import os

from tests.vm.guest.tools import HIDDEN_PID, Ending, chat, pids, run, running

running()
assert chat("hider")[0] == 200
hidden, backend = int(HIDDEN_PID.read_text()), pids()["hider"]
assert os.getsid(hidden) != os.getsid(backend)
endings = Ending(hidden), Ending(backend)
run("sudo", "llama-router", "unload", "hider")
for ending in endings:
    ending.wait()
