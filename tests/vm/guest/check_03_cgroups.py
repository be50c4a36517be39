"""Each backend has a control group of its own below that of the unit."""

from pathlib import Path

from tests.vm.guest.tools import chat, main_pid, pids, running, show


def group(pid: int) -> str:
    """Return the control group of a process."""
    return Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")


running()
assert chat("eater")[0] == 200
of_unit = show("ControlGroup")
groups = {model: group(pid) for model, pid in pids().items()}
print(groups)
assert {"plain", "eater"} <= groups.keys()
everything = [group(main_pid()), *groups.values()]
assert len(set(everything)) == len(everything)
assert all(name.startswith(f"{of_unit}/") for name in everything)
