"""Duration of a scan of many GGUF files, and the stalls of the event loop meanwhile.

Run ``python -m bench scan`` from the repository. It makes files with the headers of real
models: 30 keys, then a vocabulary of 150,000 tokens with their scores, types and merges, then
4 GiB of tensors. The tensors are holes in the files. So is the vocabulary after its first
pages, except in a few complete files: 2,000 of those would not fit on most disks.

* cold: a process that has just started, and files that are not in the page cache;
* event loop: the delay of a task of the router during a scan, the reading of its result and
  a reload, beside the delay without them;
* ``gguf.GGUFReader``: the time that llama.cpp's own package takes for a complete file.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from bench import arguments, versions
from llama_router.backends.backend import LaunchEvent
from llama_router.config.catalog import Catalog
from llama_router.config.scan_worker.parent import scan_in_process
from llama_router.config.watcher import Watcher
from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.reload import ReloadPlan
from llama_router.core.config.specs import ModelSpec
from llama_router.dispatch.dispatcher import Dispatcher
from llama_router.models.gguf import read_header

ROOT = Path(__file__).parents[1]

#: Limits of the scan and of a stall of the event loop, in seconds.
GOAL_S = 1.0
GOAL_STILL_S = 0.005

TOKENS = 150_000
TENSOR_BYTES = 4 * 2**30

#: Bytes written of a header that is mostly a hole: all keys before the vocabulary fit in.
_REAL_BYTES = 16 * 1024

_TICK_S = 0.001
_STRING, _ARRAY, _UINT32, _INT32, _FLOAT32, _BOOL = 8, 9, 4, 5, 6, 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.description = __doc__
    parser.add_argument("--files", type=arguments.count, default=2000)
    parser.add_argument("--complete", type=int, default=3, help="files without holes in the header")
    parser.add_argument("--rounds", type=arguments.count, default=5)
    parser.add_argument(
        "--folder", type=Path, help="where to make the files (default: a temporary folder)"
    )
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Run the benchmark; return 1 if a goal is missed."""
    if options.cold:
        print(json.dumps(scan_cold(options.folder)))
        return 0
    with tempfile.TemporaryDirectory("llama-router-bench-scan", dir=options.folder) as name:
        return measure(Path(name), options)


def measure(folder: Path, options: argparse.Namespace) -> int:
    """Make the files in *folder* and measure; return the exit status."""
    paths = make_files(folder / "models", options.files, complete=options.complete)
    write_config(folder)
    cold = [in_new_process(folder, paths) for _ in range(options.rounds)]
    gc.collect()
    gc.freeze()  # as a router that is ready does
    still = [trio.run(measure_loop, folder) for _ in range(options.rounds)]
    idle = [trio.run(idle_loop) for _ in range(options.rounds)]
    whole_s = [seconds(partial(read_header, str(p), whole=True)) for p in paths[: options.complete]]
    quick_s = [seconds(partial(read_header, str(path))) for path in paths]
    scan_s = statistics.median(run["scan_s"] for run in cold)
    still_s = statistics.median(still)
    print("\n".join(versions.lines()))
    print(f"{options.files} files, {TOKENS} tokens each; medians of {options.rounds} rounds")
    print(f"  scan, cold                          {scan_s * 1000:8.0f} ms   (goal {GOAL_S:.0f} s)")
    print(f"  and then: configuration             {median_ms(cold, 'load_s'):8.0f} ms")
    print(f"  scan again, files unchanged         {median_ms(cold, 'again_s'):8.0f} ms")
    print(f"  one header, quick                   {statistics.median(quick_s) * 1e6:8.0f} us")
    print(f"  one header, with chat template      {statistics.median(whole_s) * 1000:8.1f} ms")
    print(f"  event loop still, longest           {still_s * 1000:8.1f} ms   (goal 5 ms)")
    print(f"  the same without a scan             {statistics.median(idle) * 1000:8.1f} ms")
    for reader_s in gguf_reader_s(paths[: options.complete]):
        print(f"  gguf.GGUFReader, one file           {reader_s * 1000:8.0f} ms")
    return int(scan_s > GOAL_S or still_s > GOAL_STILL_S)


def median_ms(runs: Iterable[dict[str, float]], key: str) -> float:
    """Return the median of *key* in milliseconds."""
    return statistics.median(run[key] for run in runs) * 1000


def seconds(work: Any) -> float:  # noqa: ANN401 -- any callable
    """Return how long *work* takes."""
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


def gguf_reader_s(paths: Iterable[Path]) -> list[float]:
    """Return how long gguf's own reader takes for each file; none if it is not installed."""
    try:
        from gguf import GGUFReader  # noqa: PLC0415 -- a part of the extra
    except ImportError:
        return []
    return [seconds(partial(GGUFReader, path)) for path in paths]


# --- The files -----------------------------------------------------------------------


def make_files(folder: Path, count: int, *, complete: int) -> list[Path]:
    """Make *count* files in folders of 50; the first *complete* ones have no hole in the header."""
    paths: list[Path] = []
    before, vocabulary = realistic_header(), realistic_vocabulary()
    for number in range(count):
        path = folder / f"family-{number // 50}" / f"model-{number}-instruct-Q4_K_M.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = before + vocabulary
        with path.open("wb") as file:
            file.write(data if number < complete else data[:_REAL_BYTES])
            file.truncate(len(data) + TENSOR_BYTES + 64)  # and alignment
            file.flush()
            os.fsync(file.fileno())
        paths.append(path)
    return paths


def realistic_header() -> bytes:
    """Return a header up to the vocabulary, with the keys that converters write."""
    texts = {
        "general.architecture": "qwen2",
        "general.type": "model",
        "general.name": "Some Model 7B Instruct",
        "general.finetune": "Instruct",
        "general.basename": "Some-Model",
        "general.size_label": "7B",
        "general.license": "apache-2.0",
        "general.license.link": "https://example.org/some/model/blob/main/LICENSE",
        "general.base_model.0.name": "Some Model 7B",
        "general.base_model.0.organization": "Some",
        "general.base_model.0.repo_url": "https://example.org/some/model",
    }
    integers = {
        "general.base_model.count": 1,
        "qwen2.block_count": 28,
        "qwen2.context_length": 32768,
        "qwen2.embedding_length": 3584,
        "qwen2.feed_forward_length": 18944,
        "qwen2.attention.head_count": 28,
        "qwen2.attention.head_count_kv": 4,
    }
    floats = {"qwen2.rope.freq_base": 1e6, "qwen2.attention.layer_norm_rms_epsilon": 1e-6}
    keys = [string(key) + struct.pack("<I", _STRING) + string(text) for key, text in texts.items()]
    keys.append(string("general.tags") + strings(["chat", "text-generation"]))
    keys.append(string("general.languages") + strings(["en", "de"]))
    keys += [string(key) + struct.pack("<II", _UINT32, value) for key, value in integers.items()]
    keys += [string(key) + struct.pack("<If", _FLOAT32, value) for key, value in floats.items()]
    return struct.pack("<4sIQQ", b"GGUF", 3, 1, len(keys) + 12) + b"".join(keys)


def realistic_vocabulary() -> bytes:
    """Return the rest of the header: twelve keys, and one tensor."""
    words = [f"\u0120token{number:x}" for number in range(TOKENS)]
    merges = [f"\u0120token {number:x}" for number in range(TOKENS)]
    types = struct.pack("<IIQ", _ARRAY, _INT32, TOKENS) + struct.pack("<i", 1) * TOKENS
    scores = struct.pack("<IIQ", _ARRAY, _FLOAT32, TOKENS) + struct.pack("<f", 0.5) * TOKENS
    flag = struct.pack("<I?", _BOOL, False)
    number = struct.pack("<II", _UINT32, 1)
    text = struct.pack("<I", _STRING)
    keys = {
        "tokenizer.ggml.model": text + string("gpt2"),
        "tokenizer.ggml.pre": text + string("qwen2"),
        "tokenizer.ggml.tokens": strings(words),
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": strings(merges),
        "tokenizer.ggml.eos_token_id": number,
        "tokenizer.ggml.padding_token_id": number,
        "tokenizer.ggml.add_bos_token": flag,
        "tokenizer.chat_template": text + string("{{ messages }}" * 300),
        "general.quantization_version": number,
        "general.file_type": struct.pack("<II", _UINT32, 15),
    }
    f32 = 0
    tensor = string("token_embd.weight") + struct.pack("<IQIQ", 1, TENSOR_BYTES // 4, f32, 0)
    return b"".join(string(key) + value for key, value in keys.items()) + tensor


def string(text: str) -> bytes:
    """Return *text* in the encoding of GGUF."""
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def strings(texts: list[str]) -> bytes:
    """Return an array of strings in the encoding of GGUF."""
    return struct.pack("<IIQ", _ARRAY, _STRING, len(texts)) + b"".join(map(string, texts))


def write_config(folder: Path) -> None:
    """Write a configuration that finds these files only."""
    models = json.dumps([str(folder / "models")])
    (folder / "router.toml").write_text(f"[router]\nmodels_dirs = {models}\nscan_caches = false\n")


# --- Cold ----------------------------------------------------------------------------


def in_new_process(folder: Path, paths: Iterable[Path]) -> dict[str, float]:
    """Scan in a new process, with files that are not in the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    command = [sys.executable, "-m", "bench", "scan", "--cold", "--folder", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (folder / "state" / "models.toml").unlink()
    result: dict[str, float] = json.loads(done.stdout)
    return result


def scan_cold(folder: Path) -> dict[str, float]:
    """Scan and load as a router does at start; return the durations in seconds."""
    catalog = Catalog(folder / "state", {})
    router = catalog.load(folder / "router.toml").config.router
    scan_s = seconds(partial(catalog.scan, router))
    load_s = seconds(partial(catalog.load, folder / "router.toml"))
    return {"scan_s": scan_s, "load_s": load_s, "again_s": seconds(partial(catalog.scan, router))}


# --- The event loop ------------------------------------------------------------------


@attrs.define
class Ticks:
    """Longest delay of a task that sleeps for a millisecond again and again, in seconds."""

    longest_s: float = 0.0

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            begun_s = time.perf_counter()
            await trio.sleep(_TICK_S)
            self.longest_s = max(self.longest_s, time.perf_counter() - begun_s - _TICK_S)


async def idle_loop() -> float:
    """Return the longest stall of an idle event loop, in seconds."""
    ticks = Ticks()
    with trio.move_on_after(1):
        await ticks.run()
    return ticks.longest_s


async def measure_loop(folder: Path) -> float:
    """Return the longest stall during a rescan that finds every model anew, in seconds."""
    path = folder / "router.toml"
    catalog = Catalog(folder / "state", {})
    loaded = catalog.load(path)
    dispatcher = Dispatcher(loaded.config, never)

    async def apply(config: Config, plan: ReloadPlan) -> frozenset[ModelId]:
        return dispatcher.reconfigure(config, plan)

    watcher = Watcher(loaded, current=lambda: dispatcher.config, apply=apply, load=catalog.reload)
    ticks = Ticks()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticks.run)
        nursery.start_soon(watcher.run)
        for _ in range(2):  # all of them are new, then none
            await scan_in_process(catalog, dispatcher.config.router)
            await watcher.reload()
        nursery.cancel_scope.cancel()
    (folder / "state" / "models.toml").unlink()
    return ticks.longest_s


async def never(spec: ModelSpec, report: Callable[[LaunchEvent], None]) -> None:
    """Launch nothing: no request names a model."""
    del spec, report
    raise AssertionError
