"""The services that serve models and that the router did not start: one task asks each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import attrs
import trio

from ..backends.service import Answer, Route, service_upstream
from ..backends.upstream import Upstream
from ..core.config.config import Config
from ..core.config.names import ModelId
from ..core.config.service import Service
from ..core.config.specs import ModelSpec
from ..core.scheduling.events import Grant, Refuse
from ..core.services.health import Health, ServiceHealth
from ..core.services.models import Ask, ServiceModels
from ..errors.backends import ServiceDownError
from ..logs.events import log

#: Requests in a row that a service fails before it is asked for its health out of turn.
FAILURES_IN_ROW: Final = 3


class AskService(Protocol):
    """Asks a service for its health; see `backends.service.ask`."""

    async def __call__(self, service: Service, *, timeout_s: float) -> Answer:
        """Return what was found."""


@attrs.define(eq=False)
class _Watch:
    """The task that asks one service.

    Attributes:
        service: The service.
        models: The models that it serves and that are asked for.
        scope: Ends the task.
        wanted: Set to ask at once.
        health: Its health.
        route: How it was reached last; None if it does not serve.
    """

    service: Service
    models: set[ModelId] = attrs.field(factory=set[ModelId])
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    wanted: trio.Event = attrs.field(factory=trio.Event)
    health: ServiceHealth = attrs.field(factory=ServiceHealth)
    route: Route | None = None


class Services:
    """Asks the services of all models, and lets `ServiceModels` decide about their requests.

    Args:
        models: Decides about requests.
        config: Returns the configuration in force.
        ask: Asks a service for its health.
        perform: Called with grants and refusals, which are to be carried out now.
    """

    def __init__(
        self,
        models: ServiceModels,
        config: Callable[[], Config],
        ask: AskService,
        perform: Callable[[Iterable[Grant | Refuse]], None],
    ) -> None:
        self.models = models
        self._config = config
        self._ask = ask
        self._perform = perform
        self._nursery: trio.Nursery | None = None
        self._watches: dict[Service, _Watch] = {}
        self.upstreams: dict[ModelId, Upstream] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask all services until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for model in tuple(self.models):
                self.act(self.models.asked(model))
            task_status.started()
            await trio.sleep_forever()

    def act(self, actions: Iterable[Grant | Refuse | Ask]) -> None:
        """Carry out what was decided."""
        performed: list[Grant | Refuse] = []
        for action in actions:
            if isinstance(action, Ask):
                self._ask_now(action.model)
            else:
                performed.append(action)
        self._perform(performed)

    def unload(self, model: ModelId) -> None:
        """Leave the service of *model* alone until a request asks for it."""
        self.act(self.models.unloaded(model))
        self._leave(model)

    def reconfigure(self, config: Config, now_s: float) -> None:
        """Follow a new configuration; what runs on a former URL goes on there."""
        for watch in tuple(self._watches.values()):
            for model in tuple(watch.models):
                spec = config.models.get(model)
                if spec is None or spec.service != watch.service:
                    self._leave(model)
        for model, upstream in self.upstreams.items():
            upstream.spec = config.models[model]
        self.act(self.models.reconfigured(config, now_s))

    def note_failure(self, upstream: Upstream, *, at_once: bool) -> None:
        """Take note that a request failed: its service is asked, if that is due.

        Args:
            upstream: What the request was sent to.
            at_once: The request got no answer.
        """
        upstream.failures += 1
        if self.upstreams.get(upstream.model) is not upstream:
            return
        if at_once or upstream.failures >= FAILURES_IN_ROW:
            upstream.failures = 0
            self._ask_now(upstream.model)

    # -- steps ----------------------------------------------------------------------------

    def _ask_now(self, model: ModelId) -> None:
        service = self._config().models[model].service
        assert service is not None, "a service serves the model"
        watch = self._watches.get(service)
        if watch is None:
            assert self._nursery is not None, "requests come while services are asked"
            watch = self._watches[service] = _Watch(service)
            self._nursery.start_soon(self._watch, watch)
        watch.models.add(model)
        watch.wanted.set()

    def _leave(self, model: ModelId) -> None:
        """Send no further request for *model* to its service; nor ask that for no model."""
        if (upstream := self.upstreams.pop(model, None)) is not None:
            upstream.end(None)
        for watch in tuple(self._watches.values()):
            watch.models.discard(model)
            if not watch.models:
                watch.scope.cancel()
                del self._watches[watch.service]

    async def _watch(self, watch: _Watch) -> None:
        with watch.scope:
            while True:
                watch.wanted = trio.Event()
                timeout_s = self._config().router.connection_timeout_s
                answer = await self._ask(watch.service, timeout_s=timeout_s)
                self._take(watch, answer)
                with trio.move_on_after(watch.health.pause_s(watch.service.health_period_s)):
                    await watch.wanted.wait()

    def _take(self, watch: _Watch, answer: Answer) -> None:
        """Take in an answer: synchronous, so that no request sees a half of it."""
        before, watch.health = watch.health, watch.health.after(answer.finding)
        now_s = trio.current_time()
        if watch.health.state is Health.UP:
            assert answer.route is not None, "it was reached"
            watch.route = answer.route
        is_down = watch.health.state is Health.DOWN
        for model in tuple(watch.models):
            spec = self._config().models[model]
            if is_down:
                self._went_down(watch, spec, answer, now_s)
            elif watch.route is not None:
                self._serve(spec, watch.route, now_s)
        if watch.health.state is before.state:
            return
        fields = {"url": watch.service.url, "models": sorted(map(str, watch.models))}
        if is_down:
            log.warning("service.down", **fields, reason=answer.reason)
        elif watch.health.state is Health.UP and before.state is not Health.SUSPECT:
            log.info("service.up", **fields)

    def _serve(self, spec: ModelSpec, route: Route, now_s: float) -> None:
        upstream = self.upstreams.get(spec.id)
        fresh = service_upstream(spec, route)
        if upstream is None or not _is_same(upstream, fresh):
            if upstream is not None:
                upstream.end(None)
            self.upstreams[spec.id] = fresh
        actions = self.models.serves(spec.id, now_s)
        if actions or self.models.moves:  # most answers change nothing, and wake nothing
            self.act(actions)

    def _went_down(self, watch: _Watch, spec: ModelSpec, answer: Answer, now_s: float) -> None:
        url, health = watch.service.url, watch.health
        error = ServiceDownError(f"the service of model {str(spec.id)!r} at {url} {answer.reason}")
        if (upstream := self.upstreams.pop(spec.id, None)) is not None:
            upstream.end(error)
        retry_at_s = now_s + health.pause_s(watch.service.health_period_s)
        self.act(
            self.models.fails(
                spec.id, error, failures=health.failures, retry_at_s=retry_at_s, now_s=now_s
            )
        )


def _is_same(one: Upstream, other: Upstream) -> bool:
    """Return whether requests to both go the same way."""
    return (one.host, one.port, one.prefix, one.own_fields) == (
        other.host,
        other.port,
        other.prefix,
        other.own_fields,
    )
