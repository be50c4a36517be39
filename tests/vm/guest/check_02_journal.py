"""Each event is an entry of the journal with a field for each fact."""

from tests.vm.guest.tools import Journal, chat, pids, running

running()
journal = Journal()
assert chat("eater")[0] == 200
ready = journal.wait(LLAMA_EVENT="^backend.ready$", LLAMA_MODEL="^eater$")
assert int(ready["LLAMA_PID"]) == pids()["eater"]
assert float(ready["LLAMA_LOAD_S"]) > 0
assert ready["PRIORITY"] == "6"
assert ready["SYSLOG_IDENTIFIER"] == "llama-router"
assert "eater" in ready["MESSAGE"]
done = journal.wait(LLAMA_EVENT="^request.completed$")
assert done["LLAMA_STATUS"] == "200"
