"""The tools that a client of the Model Context Protocol can call.

Each has a type for its arguments, which checks them and is its schema, and does what a route of
the admin API does. A key that is for some models only sees and changes only those.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, Generic, TypeVar

import attrs
import msgspec
import trio
from msgspec import Meta

from ...config.file import read_config
from ...core.access.caller import Caller
from ...core.config.specs import ModelSpec
from ...errors.requests import RequestError
from ...hub.references import parse_reference
from ...logs.events import log
from ...manual.page import Section, sections_of
from ...manual.pages import find_page, pages, similar_topics
from ...manual.search import search
from ...model_logs.record import as_text
from ...threads import in_thread
from ..admin.download_reports import describe_download
from ..admin.logs import past_records
from ..admin.memory import describe_plan
from ..admin.schemas import StrictBody, to_dict
from ..admin.settings import settings_of
from ..admin.status import StatusPage
from ..web.context import ControlContext

#: Most seconds that a load waits before the tool answers that it goes on: clients give up.
MAX_WAIT_S: Final = 300.0

#: Most sections that a search returns, and characters of each.
_MAX_SECTIONS: Final = 5
_SECTION_CHARACTERS: Final = 1500

Model = Annotated[str, Meta(min_length=1, description="The name or alias of a model.")]
Seconds = Annotated[float, Meta(ge=0, le=MAX_WAIT_S)]

Arguments = TypeVar("Arguments", bound=StrictBody)

Result = Mapping[str, Any]


class ToolArgumentsError(RequestError):
    """The arguments of a tool do not fit its schema, or name something that is not there."""

    code = "invalid_arguments"


class Nothing(StrictBody):
    """No arguments."""


class OfModel(StrictBody):
    """One model."""

    model: Model


class OfLoad(StrictBody):
    """The model to load, and how long to wait for it."""

    model: Model
    wait_s: Annotated[
        Seconds,
        Meta(description="How long to wait until it is ready; the load goes on after that."),
    ] = 60.0


class OfUnload(StrictBody):
    """The model to unload."""

    model: Model
    force: Annotated[
        bool, Meta(description="Cancel the requests that it serves, instead of waiting for them.")
    ] = False


class OfPull(StrictBody):
    """The model to download."""

    model: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1024,
            description="A GGUF repository of the hub: user/repo, or user/repo:QUANT.",
        ),
    ]


class OfLogs(StrictBody):
    """The model with the log, and the number of lines."""

    model: Model
    lines: Annotated[int, Meta(ge=1, le=1000, description="The number of last lines.")] = 100


class OfSettings(StrictBody):
    """The model with the settings."""

    model: Annotated[
        str | None,
        Meta(description="The name or alias of a model; without it, the settings of the router."),
    ] = None


class OfSearch(StrictBody):
    """The words to search for."""

    query: Annotated[str, Meta(min_length=1, max_length=400, description="A few words.")]


class OfPage(StrictBody):
    """The page to read."""

    topic: Annotated[
        str, Meta(min_length=1, description="As search_docs names it: reference/configuration.")
    ]


@attrs.frozen
class Tool(Generic[Arguments]):
    """One tool.

    Attributes:
        name: Its name.
        about: What it does, for the model that chooses among tools.
        arguments: Type of its arguments.
        run: Does it; returns its result.
        reads: It changes nothing.
        destroys: It may end requests that are under way.
    """

    name: str
    about: str
    arguments: type[Arguments]
    run: Callable[[Caller, Arguments], Awaitable[Result]]
    reads: bool = True
    destroys: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the tool as ``tools/list`` shows it."""
        schema = msgspec.json.schema(self.arguments)
        (shown,) = schema["$defs"].values()
        return {
            "name": self.name,
            "description": self.about,
            "inputSchema": {key: value for key, value in shown.items() if key != "title"},
            "annotations": {
                "readOnlyHint": self.reads,
                "destructiveHint": self.destroys,
                "idempotentHint": True,
                "openWorldHint": self.name == "pull_model",
            },
        }

    async def call(self, caller: Caller, arguments: Mapping[str, Any]) -> Result:
        """Return the result for *arguments*, which are checked first.

        Raises:
            ToolArgumentsError: if they do not fit.
            RouterError: if it cannot be done.
        """
        try:
            checked = msgspec.convert(arguments, self.arguments)
        except msgspec.ValidationError as exc:
            raise ToolArgumentsError(f"the arguments of {self.name} cannot be used: {exc}") from exc
        return await self.run(caller, checked)


class Tools:
    """The tools of the router of *context*."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._page = StatusPage(context)
        listed: tuple[Tool[Any], ...] = (
            Tool(
                "list_models",
                "List the models of this router: whether each is loaded, what it does, what its "
                "requests wait for.",
                Nothing,
                self._list_models,
            ),
            Tool(
                "explain_model",
                "Explain one model: its phase, memory, context, requests, why they wait, its last "
                "error with the end of its log, and what would leave if it were loaded.",
                OfModel,
                self._explain,
            ),
            Tool(
                "load_model",
                "Load a model, so that its next request is answered at once. Others may leave.",
                OfLoad,
                self._load,
                reads=False,
            ),
            Tool(
                "unload_model",
                "Unload a model after its requests, and free its memory.",
                OfUnload,
                self._unload,
                reads=False,
                destroys=True,
            ),
            Tool(
                "pull_model",
                "Start to download a model from the hub; list_downloads shows the progress.",
                OfPull,
                self._pull,
                reads=False,
            ),
            Tool("list_downloads", "List downloads, and how far they are.", Nothing, self._pulls),
            Tool(
                "read_logs",
                "Read the last output of a model's backend, for example after a failed load.",
                OfLogs,
                self._logs,
            ),
            Tool(
                "read_settings",
                "Read what router.toml says about the router or a model, and the settings that "
                "result; secrets are masked.",
                OfSettings,
                self._settings,
            ),
            Tool(
                "search_docs",
                "Search the documentation of this version of llama-router.",
                OfSearch,
                self._search,
            ),
            Tool("read_doc", "Read one page of the documentation.", OfPage, self._read),
        )
        self.by_name: Final[Mapping[str, Tool[Any]]] = {tool.name: tool for tool in listed}

    def _spec(self, caller: Caller, name: str) -> ModelSpec:
        """Return the model with the id or alias *name*.

        Raises:
            UnknownModelError: if there is none that *caller* may use.
        """
        config = self._context.dispatcher.config
        resolved = caller.find(config, name)
        if resolved is None:
            raise caller.unknown(name, config)
        return config.models[resolved.model]

    async def _list_models(self, caller: Caller, _arguments: Nothing) -> Result:
        status = await self._page.router(with_configuration=False)
        config = self._context.dispatcher.config
        usable = {str(spec.id): spec for spec in config.models.values() if caller.may_use(spec)}
        return {
            "models": [
                {
                    "id": model.id,
                    "aliases": model.aliases,
                    "description": usable[model.id].description,
                    "phase": model.phase,
                    "in_flight": model.in_flight,
                    "queued": model.queued,
                    "waits_for": model.waits_for,
                    "crashed": model.crashed,
                }
                for model in status.models
                if model.id in usable
            ]
        }

    async def _explain(self, caller: Caller, arguments: OfModel) -> Result:
        spec = self._spec(caller, arguments.model)
        dispatcher, memory = self._context.dispatcher, self._context.memory
        plan = describe_plan(
            dispatcher.config, memory.view, memory.faults, dispatcher.residents(), [spec.id]
        )
        return {
            "model": to_dict(await self._context.rows.one(spec)),
            "if_loaded": to_dict(plan.models[0]),
            "policy": plan.policy,
        }

    async def _load(self, caller: Caller, arguments: OfLoad) -> Result:
        spec = self._spec(caller, arguments.model)
        dispatcher = self._context.dispatcher
        self._context.loads.start(spec.id)  # goes on after the wait, and if the client leaves
        with trio.move_on_after(arguments.wait_s) as wait, dispatcher.load(spec.id) as lease:
            await lease.granted()
        model = to_dict(await self._context.rows.one(spec))
        return {"ready": not wait.cancelled_caught, "model": model}

    async def _unload(self, caller: Caller, arguments: OfUnload) -> Result:
        spec = self._spec(caller, arguments.model)
        self._context.loads.cancel(spec.id)
        await self._context.dispatcher.unload(spec.id, force=arguments.force)
        return {"model": to_dict(await self._context.rows.one(spec))}

    async def _pull(self, caller: Caller, arguments: OfPull) -> Result:
        caller.check_unrestricted()
        status = self._context.downloads.start(parse_reference(arguments.model, None))
        log.info("download.started", id=status.id, model=str(status.reference))
        return to_dict(describe_download(status))

    async def _pulls(self, caller: Caller, _arguments: Nothing) -> Result:
        caller.check_unrestricted()
        found = self._context.downloads.statuses()
        return {"downloads": [to_dict(describe_download(status)) for status in found]}

    async def _logs(self, caller: Caller, arguments: OfLogs) -> Result:
        model = str(self._spec(caller, arguments.model).id)
        records = await past_records(self._context, model, arguments.lines)
        return {"model": model, "lines": [as_text(record) for record in records]}

    async def _settings(self, caller: Caller, arguments: OfSettings) -> Result:
        if arguments.model is None:
            caller.check_unrestricted()
        spec = None if arguments.model is None else self._spec(caller, arguments.model)
        context = self._context
        file = await in_thread(read_config, context.config_path, abandon_on_cancel=True)
        return to_dict(await in_thread(settings_of, file, spec, context))

    async def _search(self, _caller: Caller, arguments: OfSearch) -> Result:
        found = await in_thread(_search_docs, arguments.query)
        return {
            "sections": [
                {
                    "topic": section.topic,
                    "heading": section.heading,
                    "text": section.text[:_SECTION_CHARACTERS],
                    "cut": len(section.text) > _SECTION_CHARACTERS,
                }
                for section in found
            ]
        }

    async def _read(self, _caller: Caller, arguments: OfPage) -> Result:
        page = await in_thread(find_page, arguments.topic)
        if page is None:
            near = await in_thread(similar_topics, arguments.topic)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; search_docs finds one"
            raise ToolArgumentsError(f"there is no page {arguments.topic!r}{hint}")
        return {"topic": page.topic, "title": page.title, "text": page.text}


def _search_docs(query: str) -> list[Section]:
    sections = [section for page in pages() for section in sections_of(page)]
    return search(sections, query, _MAX_SECTIONS)
