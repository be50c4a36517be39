"""``/admin/settings``: reads and edits ``router.toml``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
from msgspec import structs
from quart import Blueprint, Response, request

from ...config.edit import edited, table_in
from ...config.file import ConfigFile, read_config
from ...config.text_diff import masked_diff
from ...core.config.config import Config
from ...core.config.redaction import (
    MASK,
    is_secret,
    redacted_command,
    redacted_config,
    redacted_env,
)
from ...core.config.specs import ModelSpec
from ...errors.config import ConfigError, SettingError
from ...threads import in_thread
from ..web.context import ControlContext
from ..web.guard import answer, json_body
from . import config_schemas
from .openapi import Query, describe
from .routes import spec_of
from .status import describe_reload


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("settings", __name__, url_prefix="/admin")

    @routes.get("/settings")
    @describe(
        "A table of the configuration file, and the resulting settings.",
        answer=config_schemas.Settings,
        errors=(404,),
        query=[
            Query(
                name="model",
                schema={"type": "string", "minLength": 1},
                about="A model's name or alias; without it, the [router] table.",
            )
        ],
    )
    async def get_settings() -> Response:
        name = request.args.get("model")
        spec = None if name is None else spec_of(context, name)
        file = await in_thread(read_config, context.config_path, abandon_on_cancel=True)
        return answer(await in_thread(settings_of, file, spec, context))

    @routes.post("/settings")
    @describe(
        "Change the configuration file, keeping comments and order, and apply it.",
        body=config_schemas.SettingsBody,
        answer=config_schemas.Edit,
        errors=(404, 409),
        also=[(422, config_schemas.Edit)],
    )
    async def set_settings() -> Response:
        body = await json_body(config_schemas.SettingsBody)
        if not body.set and not body.unset:
            raise SettingError("there is nothing to change: give 'set' or 'unset'")
        table: tuple[str, ...] = ("router",)
        if body.model is not None:
            table = ("models", str(spec_of(context, body.model).id))
        change = _RecordedChange(partial(edited, table=table, put=body.set, drop=body.unset))
        apply = context.check if body.dry_run else context.edit
        report = await apply(change, expected=body.digest)
        diff = await in_thread(change.diff, str(context.config_path), abandon_on_cancel=True)
        result = config_schemas.Edit(**structs.asdict(describe_reload(report)), diff=diff)
        return answer(result, 422 if report.problems and not body.dry_run else 200)

    return routes


class _RecordedChange:
    """A change of a text that remembers the texts."""

    def __init__(self, change: Callable[[str], str]) -> None:
        self._change = change
        self._texts = ("", "")

    def __call__(self, text: str) -> str:
        changed = self._change(text)
        self._texts = (text, changed)
        return changed

    def diff(self, name: str) -> list[str]:
        """Return the lines of a unified diff of the file *name*. Takes a while: on a thread."""
        return masked_diff(*self._texts, name)


def settings_of(
    file: ConfigFile, spec: ModelSpec | None, context: ControlContext
) -> config_schemas.Settings:
    """Return the table of a model, or of ``[router]``, in *file* and in force."""
    document: Mapping[str, Any]
    try:
        document = file.document
    except ConfigError:
        document = {}  # /admin/status lists its mistakes
    config = context.dispatcher.config
    if spec is None:
        written = table_in(document, ("router",))
        effective: dict[str, Any] = redacted_config(attrs.evolve(config, models={}))["router"]
    else:
        written = table_in(document, ("models", str(spec.id)))
        effective = redacted_config(Config(models={spec.id: spec}))["models"][str(spec.id)]
    return config_schemas.Settings(
        model=None if spec is None else str(spec.id),
        digest=file.sha256.hex(),
        written=_redacted_table(written),
        effective=effective,
    )


def _redacted_table(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table as the file has it, with its secrets masked."""
    shown: dict[str, Any] = {}
    for key, value in table.items():
        if key in ("command", "args") and isinstance(value, list):
            shown[key] = redacted_command(map(str, value))
        elif key == "env" and isinstance(value, dict):
            shown[key] = redacted_env({name: str(text) for name, text in value.items()})
        elif isinstance(value, dict):
            shown[key] = _redacted_table(value)
        else:
            shown[key] = MASK if is_secret(key) else _plain(value)
    return shown


def _plain(value: object) -> object:
    """Return a TOML value as a JSON value; dates and times become text."""
    if isinstance(value, list):
        return [_plain(member) for member in value]
    return value if isinstance(value, bool | int | float | str) else str(value)
