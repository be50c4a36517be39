"""`systemctl reload` fails with the mistakes in the file, and the status says so."""

from tests.vm.guest.tools import (
    CONFIG,
    CONFIGURATION,
    Journal,
    ask,
    chat,
    main_pid,
    run,
    running,
    show,
    write_configuration,
)

running()
router = main_pid()
journal = Journal("--unit=llama-router")
write_configuration("nonsense = 1\n")
line = (CONFIGURATION + "nonsense = 1\n").count("\n")
run("systemctl", "reload", "llama-router", status=1)
assert journal.wait(MESSAGE=f"error: line {line}: .*nonsense")
assert f"configuration rejected (line {line})" in show("StatusText")
assert (main_pid(), chat("plain")[0]) == (router, 200)

write_configuration('[models.another]\nspawn.command = ["/usr/bin/python3", "-V", "$port"]\n')
run("systemctl", "reload", "llama-router")
assert "rejected" not in show("StatusText")
assert "another" in [model["id"] for model in ask("/v1/models")[1]["data"]]
assert main_pid() == router
CONFIG.write_text(CONFIGURATION)
run("systemctl", "reload", "llama-router")
