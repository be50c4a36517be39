"""Access to files that may be faulty: a fault is a value or an `OSError`, never a crash.

`looks` examines paths, `contents` reads and replaces files, `stalls` gives up work where a file
system hangs, `faults` checks the files that a model needs, `names` names files after models. The
names of the first two are exported here.
"""

from .contents import (
    check_regular,
    create_atomically,
    make_folder,
    open_file,
    opened,
    read_up_to,
    read_with_stat,
    remove_temporaries,
    replace_atomically,
    replacing,
    write_new,
)
from .looks import (
    NOT_A_FOLDER,
    Unseen,
    absolute,
    folder_fault,
    home_folder,
    is_folder,
    is_missing,
    is_open_to_all,
    list_entries,
    list_folder,
    look,
    may_access,
    may_be_folder,
    reason_of,
    resolved,
    unseen,
)

__all__ = [
    "NOT_A_FOLDER",
    "Unseen",
    "absolute",
    "check_regular",
    "create_atomically",
    "folder_fault",
    "home_folder",
    "is_folder",
    "is_missing",
    "is_open_to_all",
    "list_entries",
    "list_folder",
    "look",
    "make_folder",
    "may_access",
    "may_be_folder",
    "open_file",
    "opened",
    "read_up_to",
    "read_with_stat",
    "reason_of",
    "remove_temporaries",
    "replace_atomically",
    "replacing",
    "resolved",
    "unseen",
    "write_new",
]
