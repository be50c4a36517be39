"""A virtual machine with Debian and systemd, emulated by qemu: its image, and one run of it.

Needs root, debootstrap, e2fsprogs and qemu-system-x86; no KVM. The base system is kept in
`CACHE` from one run to the next.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.vm.debian_root import RELEASES, install_packages, make_root, run_in
from tests.vm.guest.tools import TINY, guide

REPOSITORY = Path(__file__).parents[2]

#: Roots, by what is in them. To renew one, remove it.
CACHE = Path("/var/tmp/llama-router-vm")

#: The release of Debian: by its number in the variable ``DEBIAN``, else 12.
RELEASE = RELEASES[os.environ.get("DEBIAN") or "12"]

#: The base system: what a machine has before the how-to begins.
BASE = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "sudo", "openssl"),
    *("initramfs-tools", "linux-image-cloud-amd64"),
)

#: Where the checkout is in the machine: every user may read it there.
CHECKOUT = "/srv/llama-router"

#: The first commands of the how-to, whose result is kept as long as they stay the same.
_PREPARED_COMMANDS = 2

#: The machine's clock counts instructions, one a nanosecond, and jumps ahead where it would idle:
#: a busy host makes it slow, but no time-out in it passes sooner.
_CLOCK = ("-icount", "shift=0,sleep=off", "-rtc", "clock=vm")

#: The seconds that the machine may run.
LIMIT_S = 3600

_IMAGE_MIB = 3072

_RUN_CHECKS = """\
[Unit]
Description=Checks of llama-router
After=multi-user.target

[Service]
WorkingDirectory={checkout}
ExecStart=/usr/bin/python3 -m tests.vm.guest.run /dev/ttyS1 {checks}
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=journal+console
TimeoutStopSec=20

[Install]
WantedBy=graphical.target multi-user.target
"""


def run_checks(checks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Boot a new machine, run *checks* in it, and return the report of each by its name."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="llama-router-vm-") as folder:
        image, kernel, initrd = make_image(Path(folder), checks)
        report, console = Path(folder, "report"), Path(folder, "console")
        with console.open("wb") as output:
            subprocess.run(
                [
                    *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", *_CLOCK),
                    *("-smp", "1", "-m", "2048", "-nic", "none", "-display", "none"),
                    *("-no-reboot", "-kernel", kernel, "-initrd", initrd, "-append"),
                    "root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.show_status=no",
                    *("-drive", f"file={image},format=raw,if=virtio,cache=unsafe"),
                    *("-serial", "stdio", "-serial", f"file:{report}", "-monitor", "none"),
                ],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                timeout=LIMIT_S,
            )
        reports = [json.loads(line) for line in report.read_text().splitlines()]
        if not reports:
            raise RuntimeError(f"no check ran; the console said:\n{console.read_text()[-8000:]}")
        return {each["check"]: each for each in reports}


def make_image(folder: Path, checks: Sequence[str]) -> tuple[Path, Path, Path]:
    """Return the image of a machine that runs *checks*, its kernel and its initrd.

    The program is installed by the commands of the how-to.
    """
    root = folder / "root"
    _copy(prepared(), root)
    _install(root, guide("For the whole machine")[0][_PREPARED_COMMANDS:])
    make_model = (
        "from pathlib import Path; from llama_router.models.tiny.chat import make_chat_model; "
        f"make_chat_model(Path('{TINY}'), name='tiny', seed=1)"
    )
    (root / "srv/models").mkdir()
    run_in(root, ["/opt/llama-router/bin/python", "-c", make_model])
    _set_up(root, checks)
    kernel, initrd = folder / "vmlinuz", folder / "initrd"
    shutil.copyfile(next((root / "boot").glob("vmlinuz-*")), kernel)
    shutil.copyfile(next((root / "boot").glob("initrd.img-*")), initrd)
    image = folder / "image.ext4"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, image, f"{_IMAGE_MIB}M"], check=True)
    shutil.rmtree(root)
    return image, kernel, initrd


def base() -> Path:
    """Return the root of the base system; made if it is not there."""
    kept = CACHE / f"{RELEASE}-{_key(BASE)}"
    if not kept.exists():
        CACHE.mkdir(exist_ok=True)
        with _new_folder(kept) as root:
            make_root(root, RELEASE, wanted=BASE)
    return kept


def prepared() -> Path:
    """Return the root in which the how-to was followed up to the program itself."""
    commands = guide("For the whole machine")[0][:_PREPARED_COMMANDS]
    versions = (REPOSITORY / "requirements/service.txt").read_text()
    kept = CACHE / f"prepared-{RELEASE}-{_key((*BASE, *_packages(), *commands, versions))}"
    if not kept.exists():
        system = base()
        with _new_folder(kept) as root:
            _copy(system, root)
            install_packages(root, _packages())
            _install(root, commands)
    return kept


def _install(root: Path, commands: Iterable[str]) -> None:
    """Run *commands* of the how-to in *root*, in a checkout of the last commit."""
    checkout = root / CHECKOUT.lstrip("/")
    shutil.rmtree(checkout, ignore_errors=True)
    clone = ["git", "clone", "--quiet", "--depth=1", f"file://{REPOSITORY}", str(checkout)]
    subprocess.run(clone, check=True)
    for line in commands:
        run_in(root, ["sh", "-c", f"cd {CHECKOUT} && {line}"], quiet=True)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--archive", "--reflink=auto", source, target], check=True)


def _key(words: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that gets the name *path* when it is complete."""
    temporary = path.with_suffix(".new")
    shutil.rmtree(temporary, ignore_errors=True)
    yield temporary
    temporary.rename(path)


def _packages() -> list[str]:
    """Return the Debian packages that the how-to names."""
    text = (REPOSITORY / "docs/how-to/install-as-a-service.md").read_text()
    return text.partition("`apt install ")[2].partition("`")[0].split()


def _set_up(root: Path, checks: Sequence[str]) -> None:
    """Let the machine run *checks* after its boot, and little else."""
    (root / "etc/hostname").write_text("vm\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost vm\n::1 localhost\n")
    (root / "etc/systemd/system/checks.service").write_text(
        _RUN_CHECKS.format(checkout=CHECKOUT, checks=" ".join(checks))
    )
    for link in root.glob("etc/resolv.conf"):
        link.unlink()
    masked = ("serial-getty@ttyS0.service", "getty@tty1.service", "apt-daily.timer")
    run_in(root, ["systemctl", "mask", "--quiet", *masked, "apt-daily-upgrade.timer"])
    run_in(root, ["systemctl", "enable", "--quiet", "checks.service"], quiet=True)
