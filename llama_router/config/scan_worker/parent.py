"""Scans beside the event loop: in a process of their own, which shares no interpreter lock."""

from __future__ import annotations

from typing import Final

import msgspec

from ...core.config.specs import RouterSpec
from ...errors.base import RouterError
from ...logs.lines import escape_controls
from ...workers.parent import end_worker, start_worker
from ..catalog import Answer, Catalog, Scanned

#: Of a failed process's last words, in bytes.
_LAST_WORDS_BYTES: Final = 500


class ScanError(RouterError):
    """A scan did not come to its end, or what it found is not in force."""

    code = "scan_failed"


async def scan_beside(catalog: Catalog, router: RouterSpec) -> Scanned:
    """Look for models as `Catalog.scan` does; they are in force after a reload.

    Raises:
        ScanError: if the process that does it fails.
    """
    request = msgspec.json.encode(catalog.request(router)).decode()
    try:
        process = await start_worker(
            "llama_router.config.scan_worker.child", request, env=dict(catalog.environ)
        )
    except OSError as exc:
        raise ScanError(f"the process of the scan cannot be started: {exc.strerror}") from exc
    output = bytearray()
    try:
        assert process.stdout is not None
        async for data in process.stdout:
            output += data
        returncode = await process.wait()
    finally:
        await end_worker(process)
    try:
        answer = msgspec.json.decode(bytes(output), type=Answer)
    except msgspec.MsgspecError as exc:
        said = bytes(output[-_LAST_WORDS_BYTES:]).decode("utf-8", "replace").strip()
        raise ScanError(
            f"the process of the scan ended ({returncode}) without a result"
            + (f"; its last words: {escape_controls(said)}" if said else "")
        ) from exc
    return catalog.take(answer)
