"""What the kernel says about a killed process is found, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_router.process.oom import OomDetector

PID = 4711
NO_LOG = Path("/nonexistent/kmsg")


def kernel(folder: Path, *, group: str, log: str = "") -> OomDetector:
    """Return a kernel whose proc, control groups and log are files in *folder*."""
    process = folder / "proc" / str(PID)
    process.mkdir(parents=True)
    (process / "cgroup").write_text(f"1:name=systemd:/other\n{group}\n")
    (folder / "kmsg").write_text(log)
    return OomDetector(proc=folder / "proc", cgroups=folder / "cgroups", log=folder / "kmsg")


def write_counter(folder: Path, name: str, text: str) -> None:
    """Write a control group's file."""
    path = folder / "cgroups" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("group", "name", "text"),
    [
        ("0::/llama.service/m", "llama.service/m/memory.events", "low 0\noom 2\noom_kill {}\n"),
        ("4:memory:/box", "memory/box/memory.oom_control", "under_oom 0\noom_kill {}\n"),
    ],
)
def test_a_counter_that_rises_is_an_oom_kill(
    tmp_path: Path, group: str, name: str, text: str
) -> None:
    """Both versions of control groups count; one that stays is no proof."""
    asked = kernel(tmp_path, group=group)
    write_counter(tmp_path, name, text.format(1))
    before = asked.counters(PID)
    assert list(before.values()) == [1]
    assert not asked.has_killed(PID, before, since_s=0)
    write_counter(tmp_path, name, text.format(2))
    assert asked.has_killed(PID, before, since_s=0)


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("Out of memory: Killed process 4711 (llama-server) total-vm:9kB", True),
        ("Memory cgroup out of memory: Killed process 4711 (python3), UID 0", True),
        ("Out of memory: Killed process 47110 (llama-server) total-vm:9kB", False),
        ("usb 1-1: new device 4711", False),
    ],
)
def test_the_log_names_the_process(tmp_path: Path, message: str, found: bool) -> None:  # noqa: FBT001 -- a parameter
    """The kernel's own log is proof, if it is about this process."""
    asked = kernel(tmp_path, group="0::/", log=f"6,339,99999999999999,-;{message}\n")
    assert asked.has_killed(PID, {}, since_s=0) is found


def test_an_earlier_process_with_the_same_id_does_not_count(tmp_path: Path) -> None:
    """A record from before the start is about somebody else."""
    message = "6,339,1000000,-;Out of memory: Killed process 4711 (llama-server)"
    assert not kernel(tmp_path, group="0::/", log=message).has_killed(PID, {}, since_s=1e9)


def test_nothing_readable_is_no_proof(tmp_path: Path) -> None:
    """Without any of the files, and without the process, the answer is no."""
    asked = OomDetector(proc=tmp_path, cgroups=tmp_path, log=NO_LOG)
    assert asked.counters(PID) == {}
    assert not asked.has_killed(PID, {tmp_path / "memory.events": 0}, since_s=0)


def test_the_real_kernel_can_be_asked() -> None:
    """On this machine, whatever it lets us read, this process was not killed."""
    asked = OomDetector()
    before = asked.counters(os.getpid())
    assert not asked.has_killed(os.getpid(), before, since_s=1e9)
