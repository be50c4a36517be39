"""Roots of Debian in a folder: made by debootstrap, entered by chroot in namespaces of their own.

Needs root, debootstrap and util-linux, and of Python only the standard library. Mirrors come from
the machine's own settings: those of apt for Debian's packages, those of pip for Python's.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: The names of Debian's releases by the number that people know.
RELEASES = {"12": "bookworm", "13": "trixie"}

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

#: The settings of pip that say where packages come from.
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy")

_CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"

_ENTER = """
set -e
mount -t proc proc "$0/proc"
mount -t sysfs -o ro sysfs "$0/sys"
mount -t tmpfs tmpfs "$0/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$0/dev/pts"
[ -z "$OFFLINE" ] || { ip link set lo up; unset OFFLINE; }
user=$1
shift
exec chroot --userspec="$user" "$0" "$@"
"""


def make_root(
    root: Path, release: str, *, packages: Sequence[str] = (), wanted: Sequence[str] = ()
) -> None:
    """Make a minimal root of *release* in *root*, with access to this machine's mirrors.

    Args:
        root: The folder to make.
        release: Its name: ``bookworm``.
        packages: Debian packages to install with apt afterwards, without recommended ones.
        wanted: Debian packages of the base system itself.
    """
    include = [f"--include={','.join(wanted)}"] if wanted else []
    mirror = apt_mirror()
    subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            *include,
            release,
            root,
            *([mirror] if mirror else []),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    # A minimal root does not even know localhost; where the mirrors are, this machine knows.
    hosts = Path("/etc/hosts").read_text() if Path("/etc/hosts").exists() else ""
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{hosts}")
    if Path("/etc/resolv.conf").exists():
        shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    (root / "etc/apt/apt.conf.d/01-machine").write_text(apt_settings())
    (root / "etc/pip.conf").write_text(pip_settings())
    if packages:
        install_packages(root, packages)


def install_packages(root: Path, packages: Sequence[str]) -> None:
    """Install Debian packages in *root*, without those that they only recommend."""
    install = ["apt-get", "install", "-qq", "--no-install-recommends", *packages]
    run_in(root, ["apt-get", "update", "-qq"])
    run_in(root, install, env={"DEBIAN_FRONTEND": "noninteractive"}, quiet=True)
    if (root / _CA_BUNDLE).exists():
        # A mirror may have a certificate that only this machine knows.
        shutil.copyfile(Path("/", _CA_BUNDLE), root / _CA_BUNDLE)


def run_in(
    root: Path,
    command: Sequence[str],
    *,
    user: str = "0:0",
    env: Mapping[str, str] | None = None,
    offline: bool = False,
    quiet: bool = False,
) -> None:
    """Run *command* in *root* to its end; nothing that it starts and mounts is left.

    Args:
        root: The root.
        command: The command line.
        user: Numbers of user and group.
        env: Variables to set; but for proxies, none of this machine's are there.
        offline: Without any network but loopback.
        quiet: Without standard output.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    own = {name: value for name, value in os.environ.items() if name in _PROXIES}
    subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
            *(("--net",) if offline else ()),
            *("sh", "-c", _ENTER, root, user, *command),
        ],
        env={"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        | own
        | ({"OFFLINE": "1"} if offline else {})
        | dict(env or {}),
        stdout=subprocess.DEVNULL if quiet else None,
        check=True,
    )


def apt_mirror() -> str | None:
    """Return the mirror from which this machine's apt has Debian; None if it has none."""
    if not shutil.which("apt-get"):
        return None
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Label: Debian", "Component: main"],
        check=False,
        capture_output=True,
        text=True,
    )
    return next(iter(listed.stdout.split()), None)


def apt_settings() -> str:
    """Return the proxies of this machine's apt, as lines of its configuration."""
    if not shutil.which("apt-config"):
        return ""
    dump = subprocess.run(
        ["apt-config", "dump"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return "".join(f"{line}\n" for line in dump if "::proxy" in line.lower().partition(" ")[0])


def pip_settings() -> str:
    """Return where this machine's pip has packages from, as a configuration of pip.

    Folders of this machine are left out: a root does not have them.
    """
    settings: dict[str, str] = {}
    for path in _pip_files():
        parser = configparser.RawConfigParser()
        parser.read(path)
        if parser.has_section("global"):
            settings |= dict(parser.items("global"))
    for name in _PIP_SETTINGS:
        if value := os.environ.get(f"PIP_{name.upper().replace('-', '_')}"):
            settings[name] = value
    lines = ["[global]"]
    for name in _PIP_SETTINGS:
        words = [word for word in settings.get(name, "").split() if not _is_local(word)]
        if words:
            lines.append(f"{name} = {' '.join(words)}")
    return "\n".join([*lines, ""])


def _is_local(word: str) -> bool:
    return word.startswith(("/", "file:"))


def _pip_files() -> Iterator[Path]:
    """Yield the files that pip reads, weakest first."""
    home = Path(os.environ.get("HOME", "/root"))
    folders = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    yield from (Path(folder, "pip", "pip.conf") for folder in folders.split(os.pathsep))
    yield Path("/etc/pip.conf")
    yield home / ".pip" / "pip.conf"
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "pip", "pip.conf")
    if file := os.environ.get("PIP_CONFIG_FILE"):
        yield Path(file)
