"""systemd listens: the first client starts the router, and later ones wait for a restart."""

from threading import Thread

from tests.vm.guest.tools import ask, chat, follow, guide, run, running, show

running()
run("systemctl", "stop", "llama-router")
follow(guide("Let systemd listen")[0])
assert show("ActiveState") == "inactive"
assert ask("/livez")[0] == 200
assert show("ActiveState") == "active"

answers: list[int] = []
restart = Thread(target=run, args=("systemctl", "restart", "llama-router"))
restart.start()
while restart.is_alive():
    answers.append(chat("plain")[0])
restart.join()
print(f"{len(answers)} answers")
# Those that come while it stops are told so; none is refused a connection.
assert answers
assert set(answers) <= {200, 503}
assert chat("plain")[0] == 200

run("systemctl", "disable", "--now", "llama-router.socket")
run("rm", "/etc/systemd/system/llama-router.socket")
run("sudo", "llama-router", "install-unit")
run("systemctl", "daemon-reload")
running("")
