"""GPUs on the PCI bus, with or without a driver: their addresses, and their names.

Source: kernel documentation, ABI/testing/sysfs-bus-pci; PCI code and ID assignment (class 03);
the head of pci.ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_DISPLAY: Final = "0x03"

_DEVICES: Final = "sys/bus/pci/devices"

#: The list of names that distributions have: Debian and others, Fedora and others.
_LISTS: Final = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")


def display_devices(vendor: str, root: Path = Path("/")) -> list[str]:
    """Return the addresses of the GPUs of *vendor* (``0x10de``), sorted. Blocks."""
    folder = root / _DEVICES
    try:
        addresses = sorted(each.name for each in folder.iterdir())
    except OSError:
        return []
    return [
        address
        for address in addresses
        if _read(folder / address / "class").startswith(_DISPLAY)
        and _read(folder / address / "vendor") == vendor
    ]


def device_name(address: str, root: Path = Path("/")) -> str | None:
    """Return the name of the device at *address*, if this machine has the list of names. Blocks.

    Of ``Navi 31 [Radeon RX 7900 XTX]`` it is the part in brackets, which the vendor sells.
    """
    folder = root / _DEVICES / address
    vendor, device = (_read(folder / name).removeprefix("0x") for name in ("vendor", "device"))
    for path in _LISTS:
        try:
            names = (root / path).read_bytes()
        except OSError:
            continue
        # A vendor's line begins at the margin, its devices have one tab: "\t744c  Navi 31".
        start = names.find(f"\n{vendor}  ".encode())
        line = names.find(f"\n\t{device}  ".encode(), start) if vendor and start >= 0 else -1
        if line >= 0 and not _leaves_section(names[start + 1 : line]):
            name = names[line + 1 :].split(b"\n", 1)[0].decode(errors="replace")[7:].strip()
            return name.rpartition("[")[2].rstrip("]") if name.endswith("]") else name
    return None


def _leaves_section(text: bytes) -> bool:
    """Return whether another vendor's line begins in *text*, whose first line is a vendor's."""
    return any(line[:1] not in (b"\t", b"#", b"") for line in text.split(b"\n")[1:])


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
