"""A router that stands still is killed by the watchdog, and started again."""

import os
import signal

from tests.vm.guest.tools import Ending, Journal, chat, main_pid, pids, running

running("[Service]\nWatchdogSec=10\n")
router = main_pid()
endings = [Ending(pid) for pid in (router, *pids().values())]
everything = Journal("--unit=llama-router", "_SYSTEMD_UNIT=init.scope", "+", "_PID=1")
journal = Journal()
os.kill(router, signal.SIGSTOP)
everything.wait(MESSAGE="[Ww]atchdog timeout")
for ending in endings:
    ending.wait()
journal.wait(LLAMA_EVENT="^router.ready$")
assert main_pid() not in {router, 0}
assert chat("plain")[0] == 200
