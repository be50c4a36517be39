"""``/admin/config``: the whole configuration file for an editor, and the origins of settings."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
from quart import Blueprint, Response, request

from ...config.file import ConfigFile, read_config
from ...config.masking import masked, unmasked
from ...config.origins import Origin, OriginFinder, Source
from ...core.config.config import Config
from ...core.config.redaction import redacted_config
from ...core.config.specs import ModelSpec, RouterSpec, SchedulerSpec
from ...core.memory.fit import options_of
from ...errors.config import ConfigError
from ...models import found_file
from ...threads import in_thread
from ..web.context import ControlContext
from ..web.guard import answer, json_body
from . import config_schemas
from .openapi import Query, describe
from .routes import spec_of
from .status import describe_problem, describe_reload


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("configuration", __name__, url_prefix="/admin/config")

    @routes.get("")
    @describe(
        "The text of the configuration file, with its secrets masked.", answer=config_schemas.Text
    )
    async def get_text() -> Response:
        file = await in_thread(read_config, context.config_path, abandon_on_cancel=True)
        text = await in_thread(lambda: masked(_text_of(file)).text, abandon_on_cancel=True)
        report = context.report()
        return answer(
            config_schemas.Text(
                path=str(context.config_path),
                text=text,
                digest=file.sha256.hex(),
                exists=file.absence is None,
                status=report.outcome.value,
                problems=[describe_problem(problem) for problem in report.problems],
                warnings=[describe_problem(problem) for problem in report.warnings],
            )
        )

    @routes.post("/check")
    @describe(
        "Check a text as if it were the file, and say what it would change; nothing is written.",
        body=config_schemas.TextBody,
        answer=config_schemas.Reload,
        errors=(409,),
    )
    async def check() -> Response:
        body = await json_body(config_schemas.TextBody)
        report = await context.check(partial(_replaced, body.text), expected=body.digest)
        return answer(describe_reload(report))  # a check that finds mistakes has succeeded

    @routes.put("")
    @describe(
        "Replace the text of the configuration file, and apply it.",
        body=config_schemas.TextBody,
        answer=config_schemas.Reload,
        errors=(409,),
        also=[(422, config_schemas.Reload)],
    )
    async def put_text() -> Response:
        body = await json_body(config_schemas.TextBody)
        change = partial(_replaced, body.text)
        report = await context.edit(change, expected=body.digest, whole=True)
        return answer(describe_reload(report), 422 if report.problems else 200)

    @routes.get("/origins")
    @describe(
        "Each setting in force, with the place where its value comes from.",
        answer=config_schemas.Origins,
        errors=(404,),
        query=[
            Query(
                name="model",
                schema={"type": "string", "minLength": 1},
                about="A model's name or alias; without it, [router] and [scheduler].",
            )
        ],
    )
    async def origins() -> Response:
        name = request.args.get("model")
        spec = None if name is None else spec_of(context, name)
        file = await in_thread(read_config, context.config_path, abandon_on_cancel=True)
        return answer(await in_thread(_origins, file, spec, context, abandon_on_cancel=True))

    return routes


def _text_of(file: ConfigFile) -> str:
    try:
        return file.text
    except ConfigError:  # it is not UTF-8: the editor shows as much of it as there is
        return file.data.decode("utf-8", "replace")


def _replaced(text: str, former: str) -> str:
    """Return *text*, with the secrets of the *former* text in place of their masks."""
    changed = unmasked(text.replace("\r\n", "\n"), masked(former).secrets)
    return changed.replace("\n", "\r\n") if "\r\n" in former else changed


def _origins(
    file: ConfigFile, spec: ModelSpec | None, context: ControlContext
) -> config_schemas.Origins:
    try:
        finder = OriginFinder(file.document, file.lines)
    except ConfigError:
        finder = OriginFinder({}, {})  # /admin/config lists its mistakes
    config = context.dispatcher.config
    if spec is None:
        found = _of_tables(finder, config)
    else:
        found = {f"models.{spec.id}": [*_of_model(finder, spec, context)]}
    return config_schemas.Origins(
        model=None if spec is None else str(spec.id),
        digest=file.sha256.hex(),
        settings=[
            config_schemas.Origin(
                table=table,
                key=each.key,
                value=each.value,
                source=each.source.value,
                name=each.name,
                line=each.line,
            )
            for table, origins in found.items()
            for each in origins
        ],
    )


def _of_tables(finder: OriginFinder, config: Config) -> dict[str, list[Origin]]:
    router = redacted_config(attrs.evolve(config, models={}))["router"]
    default = redacted_config(Config(router=RouterSpec()))["router"]
    scheduler = attrs.asdict(config.scheduler, recurse=False)
    return {
        "router": [*finder.of_table("router", router, default)],
        "scheduler": [
            *finder.of_table("scheduler", scheduler, attrs.asdict(SchedulerSpec(), recurse=False))
        ],
    }


def _of_model(finder: OriginFinder, spec: ModelSpec, context: ControlContext) -> list[Origin]:
    values: dict[str, Any] = redacted_config(Config(models={spec.id: spec}))["models"][str(spec.id)]
    found = found_file.read(context.state_dir, []).models.get(str(spec.id), {})
    origins = [*finder.of_model(str(spec.id), values, found)]
    fit = context.learned(spec.id).fit
    if fit is not None and fit.is_exact and (options := options_of(fit, spec)):
        # What llama.cpp chose is passed to it at the next start.
        key = "options"
        origins.append(Origin(key=key, value=list(options), source=Source.LEARNED))
    return origins
