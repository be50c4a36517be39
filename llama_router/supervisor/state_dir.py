"""Preparation of the state directory, before any backend is started."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import attrs
import structlog

from ..admin_token import AdminToken, admin_token
from ..errors.base import RouterError
from ..files import is_open_to_all, reason_of
from ..process.instances import InstanceRecord, SweepOutcome, sweep

log = structlog.get_logger()


class StateDirError(RouterError):
    """The state directory cannot be used."""

    code = "state_dir_unusable"


@attrs.frozen
class Prepared:
    """The contents of a prepared state directory.

    Attributes:
        record: The record of running backends; closed at the end.
        token: The admin token.
    """

    record: InstanceRecord
    token: AdminToken


def prepare_state_dir(state_dir: Path, environ: Mapping[str, str], instance: str) -> Prepared:
    """End processes that an earlier router left, and create the record and token. Blocks.

    Raises:
        StateDirError: if nothing can be written there.
        AdminTokenFileError: if the admin token cannot be used.
    """
    _sweep(state_dir)
    record = _open_record(state_dir, instance)
    if is_open_to_all(state_dir):
        reason = "every user of this machine may put commands for the router there: chmod 700"
        log.warning("state_dir.exposed", path=str(state_dir), reason=reason)
    try:
        token = admin_token(state_dir, environ)
    except BaseException:
        with suppress(OSError):
            record.close()
        raise
    if token.warning is not None:
        log.warning("admin_token.exposed", path=str(token.path), reason=token.warning)
    return Prepared(record, token)


def _sweep(state_dir: Path) -> None:
    """End processes that an earlier router with this state directory left behind."""
    for swept in sweep(state_dir):
        if swept.outcome is SweepOutcome.SKIPPED:
            log.warning("instances.skipped", path=str(swept.path), reason=swept.reason)
        elif swept.killed or swept.survivors:
            log.warning(
                "backend.swept",
                models=swept.models,
                killed=sorted(swept.killed),
                survivors=sorted(swept.survivors),
            )


def _open_record(state_dir: Path, instance: str) -> InstanceRecord:
    try:
        return InstanceRecord(state_dir, instance)
    except OSError as exc:
        fault = f"{reason_of(exc)}: {exc.filename}" if exc.filename else reason_of(exc)
        raise StateDirError(
            f"the state directory {state_dir} cannot be used: {fault}; "
            "set router.state_dir to a folder that the router may write"
        ) from exc
