"""Tells a running router that models were added or removed, so that it scans for them now."""

from __future__ import annotations

from ..admin_token import AdminTokenFileError
from ..errors.base import RouterError
from .client import connected
from .failures import NoRouterError
from .options import Connection
from .printing import print_message


def tell_router(connection: Connection) -> None:
    """Let the running router scan, and print what changed for it; nothing if none runs.

    Without permission to read the admin token, a line says what to do.
    """
    try:
        with connected(connection) as client:
            scanned = client.post("/admin/rescan")
    except NoRouterError:
        return
    except AdminTokenFileError:
        print_message("the running router was not told: run 'llama-router rescan' as its user")
        return
    except RouterError as exc:
        print_message(f"the running router could not scan: {exc}")
        return
    changes = [
        f"{number} {what}"
        for number, what in ((scanned["new_models"], "new"), (scanned["removed"], "removed"))
        if number
    ]
    if changes:
        print_message(f"the running router has scanned its models: {', '.join(changes)}")
