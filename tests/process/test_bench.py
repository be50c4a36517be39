"""The benchmarks run, and report figures, versions and failures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import machine
from bench.build import build
from tests.limits import LIMIT_S

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]

ROOT = Path(__file__).parents[2]
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark with these arguments, and with no peer that *environment* does not name."""
    peers = {"LLAMA_SWAP_BIN": "", "LLAMA_SERVER_BIN": ""} | environment
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env=os.environ | peers,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def bench_without(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark where *package* is not installed."""
    code = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = {list(arguments)!r}; "
        "from bench.__main__ import main; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON document, output and chart of a quick run of three workloads."""
    folder = tmp_path_factory.mktemp("bench")
    result = bench(
        *("proxy", "--quick", "--contestants", "direct,llama-router,llama-swap"),
        *("--only", "small-16", "--only", "sse-32", "--only", "upload"),
        *("--json", str(folder / "figures.json"), "--chart", str(folder / "chart.png")),
    )
    assert result.returncode in {0, 1}, result.stderr
    document = json.loads((folder / "figures.json").read_text())
    document["output"] = result.stdout
    document["chart"] = (folder / "chart.png").read_bytes()
    return document


def test_every_answer_is_checked_and_right(document: dict[str, Any]) -> None:
    """The client found nothing wrong in any workload, directly or through the router."""
    assert document["problems"] == []
    for workload in ("small-16", "sse-32", "upload"):
        for name in ("direct", "llama-router"):
            (figures,) = document["workloads"][workload][name]
            assert figures["errors"] == 0


def test_the_router_costs_something_and_no_proxy_nothing(document: dict[str, Any]) -> None:
    """CPU time is that of the contestant, without the stub that it started."""
    for workload, figure in (("small-16", "cpu_us"), ("sse-32", "cpu_us"), ("upload", "cpu_ms")):
        figures = document["workloads"][workload]
        assert figures["direct"][0][figure] == 0
        assert figures["llama-router"][0][figure] > 0
        assert figures["llama-router"][0]["helpers_share"] > 0


def test_all_chunks_of_all_streams_arrive(document: dict[str, Any]) -> None:
    """32 streams of half a second have 25 chunks each."""
    for name in ("direct", "llama-router"):
        assert document["workloads"]["sse-32"][name][0]["lost_share"] == 0


def test_what_could_not_run_is_said(document: dict[str, Any]) -> None:
    """A contestant that is not there is named with the reason, in the table and in the JSON."""
    assert document["not_run"] == {"llama-swap": "LLAMA_SWAP_BIN is not set"}
    assert "not run: llama-swap: LLAMA_SWAP_BIN is not set" in document["output"]


def test_the_report_names_versions(document: dict[str, Any]) -> None:
    """Figures without the machine and the build of Python could not be compared."""
    for name in ("llama-router", "Python", "kernel", "CPU"):
        assert f"\n{name}: {document['versions'][name]}\n" in document["output"]


def test_goals_without_their_peer_are_not_measured(document: dict[str, Any]) -> None:
    """Nothing is claimed about a comparison that did not take place."""
    verdicts = {
        goal["title"]: goal["verdict"] for goal in document["goals"] if "against" in goal["title"]
    }
    assert set(verdicts.values()) == {"not measured"}
    assert "CPU of a 15 MB upload, against nginx" in verdicts


def test_the_chart_is_a_picture(document: dict[str, Any]) -> None:
    """It is a PNG."""
    assert document["chart"].startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (.ci/run installs it)")
def test_nginx_takes_part_where_it_is_installed(tmp_path: Path) -> None:
    """Its configuration is accepted, and every answer through it is right."""
    figures = tmp_path / "figures.json"
    bench(
        *("proxy", "--quick", "--contestants", "nginx", "--only", "small-16"),
        *("--only", "download", "--json", str(figures)),
    )
    document = json.loads(figures.read_text())
    assert document["contestants"] == ["nginx"]
    assert document["problems"] == []
    assert document["workloads"]["download"]["nginx"][0]["cpu_ms"] > 0


FAKE_LLAMA_SWAP = """\
import http.server, pathlib, sys

if sys.argv[1:] == ["--version"]:
    print("version: 42 (fake)")
    sys.exit()
options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
config = pathlib.Path(options["--config"]).read_text()
pathlib.Path(__file__).with_name("config.yaml").write_text(config)

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self):
        Handler.asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if Handler.asked == 1 else 429)
        self.send_header("Content-Length", "0")
        self.end_headers()

host, port = options["--listen"].split(":")
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def refusing_peer(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Figures beside a llama-swap that refuses all requests but the first; its configuration."""
    folder = tmp_path_factory.mktemp("peer")
    program = folder / "llama-swap"
    program.write_text(f"#!{sys.executable}\n{FAKE_LLAMA_SWAP}")
    program.chmod(0o755)
    figures = folder / "figures.json"
    bench(
        *("proxy", "--quick", "--contestants", "llama-router,llama-swap"),
        *("--only", "small-16", "--json", str(figures)),
        LLAMA_SWAP_BIN=str(program),
    )
    return json.loads(figures.read_text()), (folder / "config.yaml").read_text()


def test_llama_swap_may_pass_on_as_much_as_it_can(
    refusing_peer: tuple[dict[str, Any], str],
) -> None:
    """Its default limit of ten requests at a time would be measured instead of it."""
    assert "    concurrencyLimit: 100000\n" in refusing_peer[1]


def test_a_peer_that_refuses_is_not_beaten(refusing_peer: tuple[dict[str, Any], str]) -> None:
    """Refusals are cheap: the goal against it is not measured, and the reason is given."""
    document, _ = refusing_peer
    (goal,) = (one for one in document["goals"] if one["title"].endswith("against llama-swap"))
    assert goal["verdict"] == "not measured"
    assert goal["reason"].startswith("llama-swap had ")


def test_versions_are_in_the_document(refusing_peer: tuple[dict[str, Any], str]) -> None:
    """Those of the machine and of every contestant that took part."""
    versions = refusing_peer[0]["versions"]
    assert versions["llama-swap"] == "version: 42 (fake)"
    assert set(versions) == {"llama-router", "Python", "kernel", "CPU", "llama-swap"}


def chunked(*pieces: bytes) -> bytes:
    """Return an answer of the stub's kind with these chunks."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def event(number: int) -> bytes:
    return b'data: {"sent_ns":"%016x","number":"%08x","choices":[]}\n\n' % (1, number)


USAGE = b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = (event(0), event(1), USAGE, DONE)


def load(answer: bytes, *arguments: str) -> tuple[dict[str, Any], str]:
    """Have the client send one request that gets *answer*; return its figures and complaints."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_S)
        port = listener.getsockname()[1]
        argv = [str(build().load), "--port", str(port), "--requests", "1", *arguments]
        client = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        connection, _ = listener.accept()
        with connection:
            assert b"\r\n\r\n" in connection.recv(65536)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            output, complaints = client.communicate(timeout=LIMIT_S)
    return json.loads(output), complaints


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_the_client_takes_a_stream_however_it_is_cut(size: int) -> None:
    """It checks the events, not the chunks that they come in."""
    whole = b"".join(STREAM)
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    figures, complaints = load(chunked(*pieces), "--expect", "stream", "--chunks", "2")
    assert (figures["errors"], figures["chunks"], complaints) == (0, 2, "")


@pytest.mark.parametrize(
    ("answer", "expect"),
    [
        pytest.param(chunked(event(1), event(0), USAGE, DONE), "stream", id="swapped"),
        pytest.param(chunked(event(0), USAGE, DONE), "stream", id="lost"),
        pytest.param(chunked(event(0), event(0), USAGE, DONE), "stream", id="doubled"),
        pytest.param(chunked(event(0), event(1), DONE), "stream", id="no usage"),
        pytest.param(chunked(*STREAM[:3]), "stream", id="no end"),
        pytest.param(chunked(*STREAM, b"data: {}\n\n"), "stream", id="something more"),
        pytest.param(chunked(*STREAM)[:-5], "stream", id="cut"),
        pytest.param(chunked(*STREAM) + b"x", "stream", id="bytes after the end"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "small", id="small"),
        pytest.param(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "any", id="status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345", "big", id="big"),
        pytest.param(
            b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"received":1}', "count", id="upload"
        ),
    ],
)
def test_the_client_notices_what_is_wrong(answer: bytes, expect: str) -> None:
    """Each of these answers is an error."""
    arguments = ("--chunks", "2", "--bytes", "5", "--body-bytes", "1000")
    figures, complaints = load(answer, "--expect", expect, *arguments)
    assert figures["errors"] == 1
    assert complaints.startswith("load: ")


def test_names_may_be_given_with_commas_or_one_by_one(tmp_path: Path) -> None:
    """`--only` and `--contestants` take both."""
    figures = tmp_path / "figures.json"
    bench(
        *("proxy", "--quick", "--contestants", "direct, llama-swap", "--contestants", "direct"),
        *("--only", "small-1,sse-1", "--only", "small-16", "--json", str(figures)),
    )
    document = json.loads(figures.read_text())
    assert list(document["workloads"]) == ["small-1", "small-16", "sse-1"]
    assert (document["contestants"], [*document["not_run"]]) == (["direct"], ["llama-swap"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rounds", "0"), "'0' is not a whole number from 1 on"),
        (("--seconds", "-3"), "'-3' is not a number over 0"),
        (("--seconds", "nan"), "'nan' is not a number"),
        (("--json", "/nonexistent/figures.json"), "there is no folder /nonexistent"),
        (("--chart", "/proc"), "/proc is a folder"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_at_once(
    arguments: tuple[str, str], says: str
) -> None:
    """No figures are lost to a file that cannot be written, and no run goes on for ever."""
    result = bench("proxy", "--quick", "--only", "small-1", *arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert "round 1" not in result.stderr


def test_a_chart_without_matplotlib_is_refused_at_once(tmp_path: Path) -> None:
    """The message says what to install."""
    chart = str(tmp_path / "chart.png")
    result = bench_without("matplotlib", "proxy", "--quick", "--only", "small-1", "--chart", chart)
    assert result.returncode == 2
    assert "install the extra: pip install -e '.[bench]'" in result.stderr
    assert "round 1" not in result.stderr


def test_swaps_without_their_extra_are_refused() -> None:
    """The message says what to install."""
    result = bench_without("gguf", "swap", "--rounds", "1", "--size-mb", "0")
    assert result.returncode == 2
    assert "bench swap: making a model needs the Python package 'gguf'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_without_contestants_is_no_success() -> None:
    """The exit status says that nothing was measured."""
    result = bench("proxy", "--quick", "--only", "small-1", "--contestants", "llama-swap")
    assert result.returncode == 2
    assert "not run: llama-swap: LLAMA_SWAP_BIN is not set" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Neither programs nor files, also if it comes from the terminal, to all of them, and twice."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "proxy", "--seconds", "60", "--only", "small-1"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    ) as run:
        assert run.stderr is not None
        assert "round 1 of 5: small-1, direct" in run.stderr.readline()
        started = machine.tree(run.pid)
        os.killpg(run.pid, number)
        os.killpg(run.pid, number)
        assert "Traceback" not in run.stderr.read()
    assert run.returncode == 128 + number
    assert len(started) > 3
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_are_refused() -> None:
    """The message has the names that there are."""
    result = bench("proxy", "--only", "nonsense")
    assert result.returncode == 2
    assert "unknown: nonsense; there are start, small-1" in result.stderr


@pytest.mark.embedded
def test_swaps_of_tiny_models_are_measured(tmp_path: Path) -> None:
    """By hand and through the router; what is not there is named."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    figures = tmp_path / "figures.json"
    result = bench("swap", "--rounds", "2", "--size-mb", "0", "--json", str(figures))
    assert result.returncode in {0, 1}, result.stderr
    document = json.loads(figures.read_text())
    assert document["problems"] == []
    assert document["not_run"]["server llama-server"] == "LLAMA_SERVER_BIN is not set"
    (workload,) = document["workloads"].values()
    for name in ("by-hand", "llama-router"):
        assert [swap["swap_s"] > 0 for swap in workload[name]] == [True, True]
    # The router's own words for it: a swap is a load, and a part of the whole.
    assert all(0 < swap["log_load_s"] < swap["swap_s"] for swap in workload["llama-router"])


@pytest.mark.embedded
def test_prefetch_measures_three_routers(tmp_path: Path) -> None:
    """With a small model and a short answer; each router has both figures in every round."""
    figures = tmp_path / "figures.json"
    options = ("--rounds", "1", "--size-mb", "8", "--busy-s", "1", "--json", str(figures))
    result = bench("prefetch", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    rounds = json.loads(figures.read_text())["rounds"]["swap"]
    assert set(rounds) == {"without", "with", "beside"}
    assert all({"ready_s", "answer_s"} <= each[0].keys() for each in rounds.values())


@pytest.mark.embedded
def test_cache_measures_both_routers(tmp_path: Path) -> None:
    """The conversation comes from the cache with keep_cache, and is computed anew without."""
    figures = tmp_path / "figures.json"
    options = ("--rounds", "1", "--size-mb", "4", "--tokens", "300", "--json", str(figures))
    result = bench("cache", *options)  # so small a model may miss the goal: it is mostly the load
    rounds = json.loads(figures.read_text())["rounds"]["swap"]
    assert rounds["without"][0]["cached_tokens"] == 0, result.stdout
    n_tokens = rounds["with"][0]["prompt_tokens"]
    assert rounds["with"][0]["cached_tokens"] > 0.9 * n_tokens > 200, result.stdout
