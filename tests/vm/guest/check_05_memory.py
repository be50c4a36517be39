"""Memory that runs out costs one backend, and the error says so; the router goes on."""

from tests.vm.guest.tools import Ending, Journal, chat, main_pid, pids, running

running("[Service]\nMemoryMax=350M\nMemorySwapMax=0\n")
router, plain = main_pid(), pids()["plain"]
assert chat("eater")[0] == 200
journal, ending = Journal(), Ending(pids()["eater"])
status, answer = chat("eater", eat_mib=400)
ending.wait()
assert status >= 500, (status, answer)
crashed = journal.wait(LLAMA_EVENT="^backend.crashed$")
assert crashed["LLAMA_CAUSE"] == "oom_killed", crashed
assert crashed["LLAMA_MODEL"] == "eater"
assert (main_pid(), pids()["plain"]) == (router, plain)
assert chat("plain")[0] == 200
