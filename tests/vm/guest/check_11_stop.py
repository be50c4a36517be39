"""A stop is clean and quick, while backends run, and leaves nothing."""

import time

from tests.vm.guest.tools import HIDDEN_PID, Ending, chat, pids, run, running, show

running()
assert chat("hider")[0] == 200
endings = [Ending(pid) for pid in (*pids().values(), int(HIDDEN_PID.read_text()))]
begun_s = time.monotonic()
run("systemctl", "stop", "llama-router")
took_s = time.monotonic() - begun_s
for ending in endings:
    ending.wait(0)
assert show("Result") == "success"
assert show("ActiveState") == "inactive"
# No stop_timeout_s and no drain_s passed in full.
assert took_s < 25, took_s
