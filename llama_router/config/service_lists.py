"""The lists of models of services, in the state directory: known at a start without the services.

Blocks on files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from ..files.contents import make_folder, read_up_to, replace_atomically

#: The file in the state directory.
NAME: Final = "services.json"

_MAX_BYTES: Final = 64 * 1024 * 1024

Lists = dict[str, tuple[str, ...]]
"""The names of the models of each service, by URL."""


def read(state_dir: Path) -> Lists:
    """Return the lists; none if there is no file, or none that can be used.

    Services are asked again soon, so nothing is lost with a damaged file.
    """
    try:
        return msgspec.json.decode(read_up_to(state_dir / NAME, _MAX_BYTES), type=Lists)
    except (OSError, msgspec.DecodeError):
        return {}


def store(state_dir: Path, url: str, names: tuple[str, ...]) -> bool:
    """Store the list of one service; return whether it is another one than before.

    Raises:
        OSError: if that is not possible.
    """
    lists = read(state_dir)
    if lists.get(url) == names:
        return False
    make_folder(state_dir)
    replace_atomically(state_dir / NAME, msgspec.json.encode({**lists, url: names}))
    return True
