"""``GET /metrics``, with scripted backends."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from functools import partial
from shutil import which

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families as parse

from llama_router.control.metrics import router_metrics
from llama_router.core.access.caller import UNRESTRICTED
from llama_router.core.apis.usage import Usage
from llama_router.core.memory.view import MemoryView
from llama_router.dispatch.activity_log import KEPT
from llama_router.dispatch.request_log import Outcome, RequestLog
from llama_router.model_logs.store import LogStore
from tests.process.harness import Answer, Backend, Router, Stage, post, request

pytestmark = pytest.mark.process

ECHO = "/v1/echo"
KEY = "sk-monitor-0123456789"
LLAMA = b"# TYPE llamacpp:tokens_total counter\nllamacpp:tokens_total 5\n"


async def metrics(router: Router, target: str = "/metrics") -> str:
    """Return the page."""
    answer = await router.ask(request("GET", target))
    assert answer.status == 200, answer.body
    assert answer.fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.body.decode()


def value(page: str, name: str, **labels: str) -> float | None:
    """Return the sum of the samples with that name and *labels*; None if there is none."""
    found = [
        sample.value
        for family in parse(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else None


async def test_what_happened_is_on_the_page(start, stage) -> None:
    """Requests, loads, phases, the process; it is valid, and looking loads nothing."""
    router = await start({"a": stage.model("a"), "b": stage.model("b")})
    before = await metrics(router)
    assert value(before, "llama_router_requests_total") is None
    assert value(before, "llama_router_models", phase="stopped") == 2
    await router.ask(post(ECHO, "a"))
    await router.ask(post(ECHO, "b"))
    await router.ask(post(ECHO, "none"))
    page = await metrics(router)
    assert value(page, "llama_router_requests_total", model="a", outcome="ok") == 1
    errors = "llama_router_request_errors_total"
    assert value(page, errors, model="unknown", code="model_not_found") == 1
    assert value(page, "llama_router_loads_total", cause="request") == 2
    assert value(page, "llama_router_stops_total", model="a", cause="swap") == 1
    assert value(page, "llama_router_swap_duration_seconds_count", model="b") == 1
    assert value(page, "llama_router_model_phase", model="b", phase="ready") == 1
    assert value(page, "llama_router_requests_queued", model="a") == 0
    resident = value(page, "process_resident_memory_bytes")
    assert resident is not None
    assert resident > 10 * 2**20
    assert router.spawned() == ["a", "b"]


@pytest.mark.skipif(which("promtool") is None, reason="needs promtool (Debian: prometheus)")
async def test_promtool_finds_nothing(start, stage) -> None:
    """Names, types, units and help are as Prometheus wants them."""
    router = await start({"a": stage.model("a")})
    await router.ask(post(ECHO, "a"))
    check = partial(
        trio.run_process,
        ["promtool", "check", "metrics"],
        stdin=(await metrics(router)).encode(),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    done: subprocess.CompletedProcess[bytes] = await check()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def asked_for_backends(
    router: Router, backends: dict[str, Backend], answers: dict[str, bytes]
) -> str:
    """Return the page with the metrics of *backends*, which give *answers*."""
    pages: list[str] = []

    async def ask() -> None:
        pages.append(await metrics(router, "/metrics?backends=1"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        for name, backend in backends.items():
            scripted = await backend.request()
            body = answers.get(name)
            if body is not None:
                head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
                await scripted.send(head + body)
    return pages[0]


async def ready(start, stage: Stage, names: Iterable[str]) -> tuple[Router, dict[str, Backend]]:
    """Return a router whose models *names* are ready, and their backends."""
    router = await start(
        {name: stage.model(name, "--script", "/metrics", group="g") for name in names}
    )
    backends: dict[str, Backend] = {}
    for name in names:
        await router.ask(post(ECHO, name))
        backends[name] = await stage.backend(name)
    return router, backends


async def test_the_metrics_of_backends_are_passed_on(start, stage) -> None:
    """Only if that is asked for; each sample has its model."""
    router, backends = await ready(start, stage, ("a", "b"))
    assert "llamacpp" not in await metrics(router)
    page = await asked_for_backends(router, backends, {"a": LLAMA, "b": LLAMA})
    assert page.count("# TYPE llamacpp:tokens_total counter") == 1
    assert value(page, "llamacpp:tokens_total", model="a") == 5
    assert value(page, "llamacpp:tokens_total", model="b") == 5
    assert value(page, "llama_router_backend_scrape_success") == 2


async def test_a_backend_that_hangs_costs_its_own_metrics(start, stage, monkeypatch) -> None:
    """The page comes in time, and says so."""
    monkeypatch.setattr(router_metrics, "BACKENDS_TIMEOUT_S", 0.2)
    router, backends = await ready(start, stage, ("a", "b"))
    page = await asked_for_backends(router, backends, {"a": LLAMA})
    assert value(page, "llamacpp:tokens_total", model="a") == 5
    assert value(page, "llama_router_backend_scrape_success", model="b") == 0


async def test_a_named_model_has_its_own_metrics(start, stage) -> None:
    """As llama.cpp's router has them: for the query, and for the path of a running model."""
    router, backends = await ready(start, stage, ("a",))
    for target in ("/metrics?model=a&x=?script", "/a/metrics"):
        answers: list[Answer] = []

        async def ask(target: str = target, answers: list[Answer] = answers) -> None:
            answers.append(await router.ask(request("GET", target)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            scripted = await backends["a"].request()
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(LLAMA)
            await scripted.send(head + LLAMA)
        assert answers[0].body == LLAMA


@pytest.mark.parametrize(
    ("metrics", "fields", "status"),
    [
        ("auto", {}, 401),
        ("auto", {"authorization": f"Bearer {KEY}"}, 200),
        ("auto", {"authorization": "Bearer sk-alice-0123456789"}, 401),
        ("auto", {"x_admin_token": "token-token-token"}, 200),
        ("admin", {"authorization": f"Bearer {KEY}"}, 200),
        ("open", {}, 200),
        ("off", {"x_admin_token": "token-token-token"}, 404),
    ],
)
async def test_who_may_read_them(start, stage, metrics, fields, status) -> None:
    """Where there are keys: the admin token, or a key with metrics = true."""
    router = await start(
        {"a": stage.model("a")},
        metrics=metrics,
        admin_token="token-token-token",
        api_keys={
            "monitor": {"key": KEY, "metrics": True, "models": []},
            "alice": {"key": "sk-alice-0123456789"},
        },
    )
    assert (await router.ask(request("GET", "/metrics", **fields))).status == status


async def test_a_key_for_metrics_alone_uses_no_model(start, stage) -> None:
    """Its list of models is empty."""
    keys = {"monitor": {"key": KEY, "metrics": True, "models": []}}
    router = await start({"a": stage.model("a")}, api_keys=keys)
    body = b'{"model": "a"}'
    answer = await router.ask(
        request("POST", ECHO, body, content_type="application/json", x_api_key=KEY)
    )
    assert answer.status == 404


async def test_no_request_is_lost_between_two_looks(start, stage) -> None:
    """They are counted although the log of requests keeps only the last ones."""
    router = await start({"a": stage.model("a")})
    activity = router.running.dispatcher.activity
    for _ in range(3 * KEPT):
        record = RequestLog("POST", ECHO, began_s=0.0)
        activity.begin(record)
        record.model, record.outcome, record.key = "a", Outcome.OK, UNRESTRICTED.name
        record.write(now_s=1.0)
    page = await metrics(router)
    assert value(page, "llama_router_requests_total", model="a") == 3 * KEPT


async def test_300_models_take_20_ms(start, stage) -> None:
    """Of processor time, each with figures that have just changed."""
    names = [f"model-{number}" for number in range(300)]
    router = await start({name: stage.model(name) for name in names})
    dispatcher = router.running.dispatcher
    took: list[float] = []
    logs = LogStore(None, max_bytes=0, backups=0)
    source = router_metrics.RouterMetrics(dispatcher, MemoryView, logs, time.time())
    for _ in range(5):
        for name in names:
            record = RequestLog("POST", ECHO, began_s=0.0)
            dispatcher.activity.begin(record)
            record.model, record.outcome, record.usage = name, Outcome.OK, Usage(7, 9)
            record.write(now_s=1.0)
        began_s = time.thread_time()
        text = await source.page(backends=False)
        took.append(time.thread_time() - began_s)
    assert text.count("\n") > 20_000
    assert min(took) < 0.020
