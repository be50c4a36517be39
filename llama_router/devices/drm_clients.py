"""Memory of GPUs by process, from the files that processes have open: /proc/PID/fdinfo.

Every open file of a GPU belongs to a *client* of the driver, which counts its memory. Several
files, of several processes, may be of one client.

Source: kernel documentation, gpu/drm-usage-stats.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

#: What begins the name of a region on the GPU: of AMD and of Intel's xe, and of Intel's i915.
_ON_GPU: Final = ("vram", "local")

#: The same of host memory, which such a driver allocates for a process.
_ON_HOST: Final = ("gtt", "cpu", "system")

#: Keys for the memory of a region, the best first. The last one is of older kernels.
_KEYS: Final = ("drm-resident-", "drm-memory-", "drm-total-")

_UNITS_BYTES: Final = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

#: Seconds between two looks at every process of the machine. In between, those that had a GPU
#: open, and the backends, are looked at: that takes microseconds instead of milliseconds.
_SEARCH_PERIOD_S: Final = 10.0


@attrs.frozen(kw_only=True)
class Held:
    """What processes hold by the drivers of GPUs, in MiB.

    Attributes:
        on_gpu: By PCI address and process; None for a GPU whose driver does not count memory.
        on_host: Host memory, by process. It is not in the process's own figures.
    """

    on_gpu: dict[str, dict[int, float] | None] = attrs.field(factory=dict)
    on_host: dict[int, float] = attrs.field(factory=dict)


class DrmClients:
    """Reads what processes hold. Those that this process may not look at are left out.

    Args:
        proc: The proc file system; another one in tests.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._users: set[int] = set()
        self._search_at_s = float("-inf")

    def held(self, backends: frozenset[int], *, search: bool) -> Held:
        """Return what each process holds. Blocks for milliseconds.

        Args:
            backends: Processes that are looked at in any case.
            search: Look at all others, too.
        """
        now_s = time.monotonic()
        pids: Iterable[int] = self._users | backends
        if search and now_s >= self._search_at_s:
            self._search_at_s = now_s + _SEARCH_PERIOD_S
            pids = [int(name) for name in os.listdir(self._proc) if name.isdecimal()]  # noqa: PTH208 -- names are enough
        self._users = set()
        seen: set[tuple[str, str]] = set()
        on_gpu: defaultdict[str, dict[int, float] | None] = defaultdict(dict)
        on_host: defaultdict[int, float] = defaultdict(float)
        for pid in sorted(pids):
            for fields in self._files(pid):
                self._users.add(pid)
                client = fields["drm-pdev"], fields.get("drm-client-id", "")
                if client in seen:
                    continue
                if client[1]:  # before Linux 5.19 there is none
                    seen.add(client)
                of_gpu, mib = on_gpu[client[0]], _regions_mib(fields, _ON_GPU)
                if mib is None:
                    on_gpu[client[0]] = None
                elif of_gpu is not None:
                    of_gpu[pid] = of_gpu.get(pid, 0.0) + mib
                on_host[pid] += _regions_mib(fields, _ON_HOST) or 0.0
        return Held(on_gpu=dict(on_gpu), on_host=dict(on_host))

    def _files(self, pid: int) -> Iterator[dict[str, str]]:
        """Yield the description of each open file of a GPU."""
        folder = f"{self._proc}/{pid}"
        try:
            names = os.listdir(f"{folder}/fd")  # noqa: PTH208 -- names are enough
        except OSError:
            return
        for name in names:
            try:
                # Without a path object for each of some ten thousand files.
                if not os.readlink(f"{folder}/fd/{name}").startswith("/dev/dri/"):  # noqa: PTH115
                    continue
                lines = Path(f"{folder}/fdinfo/{name}").read_text().splitlines()
            except OSError:
                continue
            fields = {key: value.strip() for key, _, value in (x.partition(":") for x in lines)}
            if "drm-pdev" in fields:
                yield fields


def _regions_mib(fields: dict[str, str], regions: tuple[str, ...]) -> float | None:
    """Return what a client holds of some regions; None if its driver does not count them."""
    for prefix in _KEYS:
        starts = tuple(prefix + region for region in regions)
        if values := [value for key, value in fields.items() if key.startswith(starts)]:
            return sum(map(_bytes, values)) / 2**20
    return None


def _bytes(value: str) -> int:
    number, _, unit = value.partition(" ")
    return int(number) * _UNITS_BYTES.get(unit.strip(), 1) if number.isdecimal() else 0
