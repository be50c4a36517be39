"""The alert rules and the dashboard, with Debian's Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import yaml

from tests.process.harness import Answer, Backend, Router, Scripted, Stage, free_port, request

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        PROMETHEUS is None or PROMTOOL is None, reason="Prometheus is not installed"
    ),
]

DOCS = Path(__file__).parents[2] / "docs"
ALERTS = DOCS / "observability" / "alerts.yml"
DASHBOARD = DOCS / "observability" / "grafana-dashboard.json"
GUIDE = DOCS / "how-to" / "monitor.md"
REFERENCE = DOCS / "reference" / "http-api.md"

KEY = "sk-prometheus-0123456789"

#: The limit of an alert, at the end of its expression.
LIMIT = re.compile(r"\s*(==|>=|>) [0-9.]+\s*$")

#: Seconds between two looks of Prometheus at the router.
INTERVAL_S = 0.25


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def expressions() -> Iterator[str]:
    """Yield each query of the rules, the dashboard and the guide, with its variables filled in."""
    for rule in rules():
        yield rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            filled = target["expr"].replace("$__rate_interval", "5m")
            yield re.sub(r"\$(instance|model)\b", ".*", filled)
    table = GUIDE.read_text().partition("## Useful questions")[2]
    yield from re.findall(r"^\|[^|]*\| `([^`]*)` \|$", table, re.MULTILINE)


def metric_names(expression: str) -> set[str]:
    """Return the names of metrics in *expression*."""
    return set(re.findall(r"\b(?:llama_router|process)_\w+", expression))


def test_the_queries_are_about_metrics_that_the_reference_has() -> None:
    """No query has a misspelt name, which would be an empty panel or an alert that never fires."""
    text = REFERENCE.read_text().partition("## Metrics")[2]
    known = set(re.findall(r"`((?:llama_router|process)_\w+)`", text))
    asked = set().union(*map(metric_names, expressions()))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= known
    assert len(asked) > 20


async def run_promtool(*arguments: str) -> None:
    """Run promtool; it must be content."""
    done: subprocess.CompletedProcess[bytes] = await trio.run_process(
        [str(PROMTOOL), *arguments], capture_stdout=True, capture_stderr=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


async def test_promtool_accepts_the_rules() -> None:
    """Their expressions are valid, and every alert says what to do."""
    await run_promtool("check", "rules", str(ALERTS))
    assert all({"summary", "action"} <= rule["annotations"].keys() for rule in rules())


@pytest.mark.parametrize(
    ("name", "at", "series"),
    [
        ("LlamaRouterDown", "2m", {'up{job="llama-router"}': "0x5"}),
        (
            "LlamaRouterModelFailed",
            "2m",
            {'llama_router_model_phase{model="m",phase="failed"}': "1x5"},
        ),
        (
            "LlamaRouterBackendFails",
            "10m",
            {'llama_router_backend_failures_total{model="m",cause="segfault"}': "0 1 2 3 4+0x8"},
        ),
        ("LlamaRouterLongWait", "4m", {'llama_router_oldest_queued_seconds{model="m"}': "0+100x6"}),
        (
            "LlamaRouterThrashing",
            "10m",
            {'llama_router_thrashing_loads_total{model="m"}': "0+1x12"},
        ),
        (
            "LlamaRouterErrors",
            "20m",
            {
                'llama_router_requests_total{model="m",outcome="ok"}': "0+6x25",
                'llama_router_requests_total{model="m",outcome="cut"}': "0+2x25",
            },
        ),
        (
            "LlamaRouterSlowFirstToken",
            "25m",
            {
                f'llama_router_time_to_first_token_seconds_bucket{{model="m",le="{le}"}}': values
                for le, values in (("30", "0x30"), ("60", "0+5x30"), ("+Inf", "0+5x30"))
            },
        ),
        (
            "LlamaRouterMemoryHeldByOthers",
            "20m",
            {
                'llama_router_device_memory_bytes{device="g",state="others"}': "40x25",
                'llama_router_device_memory_capacity_bytes{device="g"}': "100x25",
            },
        ),
        (
            "LlamaRouterEventLoopLag",
            "15m",
            {
                f'llama_router_event_loop_lag_seconds_bucket{{le="{le}"}}': values
                for le, values in (("0.25", "0x20"), ("1", "0+9x20"), ("+Inf", "0+9x20"))
            },
        ),
        (
            "LlamaRouterFileDescriptors",
            "10m",
            {
                'process_open_fds{job="llama-router"}': "800x15",
                'process_max_fds{job="llama-router"}': "1000x15",
            },
        ),
        (
            "LlamaRouterLogLinesDropped",
            "5m",
            {'llama_router_log_lines_dropped_total{log="router"}': "0 0 5 5 5 5 5 5"},
        ),
    ],
)
async def test_an_alert_fires(tmp_path, name: str, at: str, series: dict[str, str]) -> None:
    """With the figures that it is for, and without them it does not."""
    await run_promtool("test", "rules", _rule_test(tmp_path, name, at, series, fires=True))
    normal = "1x30" if name == "LlamaRouterDown" else "0x30"
    quiet = dict.fromkeys(series, normal)
    await run_promtool("test", "rules", _rule_test(tmp_path, name, at, quiet, fires=False))


def _rule_test(folder: Path, name: str, at: str, series: dict[str, str], *, fires: bool) -> str:
    """Write a test of the rule *name* for promtool; return its path.

    Labels and annotations of an alert that fires are not compared, since they have the value:
    ``ALERTS`` says whether it fires.
    """
    query = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
    test = {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }
    path = folder / "test.yml"
    document = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}
    path.write_text(yaml.safe_dump(document))
    return str(path)


@asynccontextmanager
async def prometheus(router: Router, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Run Prometheus as the guide configures it, for *router*; yield a client of its API."""
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    config = example.replace("127.0.0.1:8082", f"127.0.0.1:{router.port}")
    config = config.replace("scrape_interval: 15s", f"scrape_interval: {INTERVAL_S * 1000:g}ms")
    path, port = folder / "prometheus.yml", free_port()
    path.write_text(config)
    shutil.copy(ALERTS, folder)
    await run_promtool("check", "config", str(path))
    command = [
        str(PROMETHEUS),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    async with (
        trio.open_nursery() as nursery,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        run = partial(trio.run_process, command, stderr=subprocess.DEVNULL, check=False)
        await nursery.start(run)
        yield client
        nursery.cancel_scope.cancel()


async def queried(client: httpx.AsyncClient, expression: str) -> Any:
    """Return the result of a query at this moment."""
    answer = (await client.get("/api/v1/query", params={"query": expression})).json()
    assert answer["status"] == "success", (expression, answer)
    return answer["data"]["result"]


async def scraped(router: Router, count: int = 1) -> None:
    """Wait until Prometheus has got *count* more pages."""
    await router.events.wait_for_more(count, "control.answered", path="/metrics", status=200)


async def ask(router: Router, model: str, **document: object) -> Answer:
    """Send a request of a client with a key; return the answer."""
    body = json.dumps({"model": model, **document}).encode()
    return await router.ask(
        request("POST", "/v1/echo?script", body, content_type="application/json", x_api_key=KEY)
    )


async def answer_stream(scripted: Scripted) -> None:
    """Answer with a stream of tokens."""
    await scripted.begin_stream()
    await scripted.chunk(b'data: {"choices": []}\n\n')
    await scripted.chunk(
        b'data: {"usage": {"prompt_tokens": 7, "completion_tokens": 30}}\n\ndata: [DONE]\n\n'
    )
    await scripted.chunk(b"")


async def use(router: Router, stage: Stage, model: str) -> Backend:
    """Let *model*, which does not run, load and stream an answer; return its backend."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(ask, router, model, stream=True))
        backend = await stage.backend(model)
        await answer_stream(await backend.request())
    return backend


async def test_every_query_has_an_answer(start, stage: Stage, tmp_path) -> None:
    """Of a Prometheus that reads a router with swaps, thrashing, failures and refusals."""
    models = {name: stage.model(name, memory_mib={"gpu0": 700}) for name in ("a", "b")}
    router = await start(
        {**models, "broken": {"spawn": {"command": ["/no/such/program"]}}},
        api_keys={"prometheus": {"key": KEY, "metrics": True}},
        scheduler={"policy": "memory"},
        devices={"gpu0": {"kind": "simulated", "memory_mib": 1000}},
        cooldown_s=60.0,
        min_residency_s=0,
    )
    async with prometheus(router, tmp_path) as client:
        await scraped(router)
        await use(router, stage, "a")
        await use(router, stage, "b")
        backend = await use(router, stage, "a")
        assert (await ask(router, "none")).status == 404
        await backend.exit(3)
        await router.events.wait("backend.crashed", model="a")
        assert (await ask(router, "broken")).status == 503
        await scraped(router, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(ask, router, "a", stream=True))
            scripted = await (await stage.backend("a")).request()
            nursery.start_soon(partial(ask, router, "b", stream=True))
            await router.events.wait_for_more(4, "control.answered", path="/metrics")
            asked = [LIMIT.sub("", query) for query in expressions()]
            missing = [query for query in asked if not await queried(client, query)]
            await answer_stream(scripted)
            await answer_stream(await (await stage.backend("b")).request())
    assert missing == []
