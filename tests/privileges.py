"""Lets a test meet a file that it may not read, even if root runs it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Source: linux/capability.h.
_VERSION_3 = 0x20080522
_READS_ANYTHING = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@contextmanager
def like_anybody() -> Iterator[None]:
    """Within the block, the mode of a file counts for this thread, as it does for any user."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = _Header(_VERSION_3, 0), (_Sets * 2)()
    if libc.capget(ctypes.byref(header), before) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    within = (_Sets * 2).from_buffer_copy(before)
    within[0].effective &= ~_READS_ANYTHING
    _set(libc, header, within)
    try:
        yield
    finally:
        _set(libc, header, before)


def _set(libc: ctypes.CDLL, header: _Header, sets: ctypes.Array[_Sets]) -> None:
    if libc.capset(ctypes.byref(header), sets) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
