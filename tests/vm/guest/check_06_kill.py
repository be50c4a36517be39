"""A router that is killed is started again, and leaves no process behind."""

import os
import signal

from tests.vm.guest.tools import HIDDEN_PID, Ending, Journal, chat, main_pid, pids, running

running()
assert chat("hider")[0] == 200
router = main_pid()
endings = [Ending(pid) for pid in (*pids().values(), int(HIDDEN_PID.read_text()))]
journal = Journal()
os.kill(router, signal.SIGKILL)
for ending in endings:
    ending.wait()
journal.wait(LLAMA_EVENT="^router.ready$")
assert main_pid() not in {router, 0}
assert chat("plain")[0] == 200
