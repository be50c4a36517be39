"""`install-unit` lets systemd run nvidia-modprobe as root before each start; it may fail."""

from pathlib import Path

from tests.vm.guest.tools import chat, run, running, show

UNIT = "/etc/systemd/system/llama-router.service"
PROGRAM = Path("/usr/bin/nvidia-modprobe")
CALLED = Path("/run/nvidia-modprobe-called")

PROGRAM.write_text(f"""#!/bin/sh
echo "$(id -u) $*" >{CALLED}
exit 1
""")
PROGRAM.chmod(0o755)
try:
    run("sudo", "llama-router", "install-unit")
    assert run("systemd-analyze", "verify", UNIT) == ""
    running("")
    assert CALLED.read_text() == "0 -u -c=0\n"
    assert show("ActiveState") == "active"
    assert chat("plain")[0] == 200
finally:
    PROGRAM.unlink()
    run("sudo", "llama-router", "install-unit")
running("")
