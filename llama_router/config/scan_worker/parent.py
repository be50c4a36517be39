"""Starts scans in a separate process, which does not share the interpreter lock."""

from __future__ import annotations

from typing import Final

import msgspec

from ...core.config.specs import RouterSpec
from ...errors.base import RouterError
from ...files.json_text import decode_kept, encode_kept
from ...logs.lines import escape_controls
from ...workers.parent import end_worker, start_worker
from ..catalog import Catalog, ScanReply, ScanReport

#: Longest end of a failed process's output that is quoted, in bytes.
_MAX_QUOTE_BYTES: Final = 500


class ScanError(RouterError):
    """A scan did not finish, or its result could not be applied."""

    code = "scan_failed"


async def scan_in_process(catalog: Catalog, router: RouterSpec) -> ScanReport:
    """Scan like `Catalog.scan`, in a separate process; a reload applies the result.

    Raises:
        ScanError: if the process fails.
    """
    request = encode_kept(catalog.scan_request(router)).decode()
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
        reply = decode_kept(bytes(output), ScanReply)
    except msgspec.MsgspecError as exc:
        quote = bytes(output[-_MAX_QUOTE_BYTES:]).decode("utf-8", "replace").strip()
        raise ScanError(
            f"the process of the scan ended ({returncode}) without a result"
            + (f"; its last words: {escape_controls(quote)}" if quote else "")
        ) from exc
    return catalog.accept(reply)
