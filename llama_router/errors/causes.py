"""Causes of the end of a backend process, as they appear in log events and error bodies."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """A cause of the end of a backend process. The values are public."""

    STOPPED = "stopped"
    OOM_KILLED = "oom_killed"
    GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
    OUT_OF_MEMORY = "out_of_memory"
    PORT_IN_USE = "port_in_use"
    UNKNOWN_ARCHITECTURE = "unknown_architecture"
    GPU_UNUSABLE = "gpu_unusable"
    WRONG_FLAG = "wrong_flag"
    BROKEN_MODEL = "broken_model"
    LIBRARY_MISSING = "library_missing"
    MODULE_MISSING = "module_missing"
    HUB_REFUSED = "hub_refused"
    PERMISSION = "permission"
    FILE_MISSING = "file_missing"
    COMMAND_MISSING = "command_missing"
    PYTHON_ERROR = "python_error"
    ASSERTION = "assertion"
    SEGFAULT = "segfault"
    ILLEGAL_INSTRUCTION = "illegal_instruction"
    KILLED = "killed"
    ENDED = "ended"
    UNKNOWN = "unknown"


#: Causes that a second start of the same command would have again, until something is mended.
PERMANENT_CAUSES: Final = frozenset(
    (
        Cause.UNKNOWN_ARCHITECTURE,
        Cause.WRONG_FLAG,
        Cause.BROKEN_MODEL,
        Cause.LIBRARY_MISSING,
        Cause.MODULE_MISSING,
        Cause.HUB_REFUSED,
        Cause.PERMISSION,
        Cause.FILE_MISSING,
        Cause.COMMAND_MISSING,
        Cause.ILLEGAL_INSTRUCTION,
    )
)


#: Causes that less memory in use, or a larger reservation, may mend.
MEMORY_CAUSES: Final = frozenset((Cause.OOM_KILLED, Cause.GPU_OUT_OF_MEMORY, Cause.OUT_OF_MEMORY))
