"""Unit tests of learned figures: their keys, their bound, their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_router.backends.launch_identity import key_of, this_machine
from llama_router.backends.learned_launches import LearnedLaunches, read_figures
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec
from llama_router.core.memory.devices import DeviceId
from llama_router.core.memory.fit import Fit
from llama_router.core.memory.footprint import Footprint, Source
from llama_router.core.memory.learned import (
    MAX_LAUNCHES,
    NOTHING,
    LaunchKey,
    Learned,
    LearnedFigures,
    MachineId,
    after_load,
    decode,
    encode,
    launch_key,
    machine_id,
)

HERE, THERE = MachineId("here"), MachineId("there")
KEY = LaunchKey("k")
FIT = Fit(n_ctx=4096, n_ctx_full=8192, n_gpu_layers=20, n_layers=33, tensor_split=(12, 8), gpus=2)
LEARNED = Learned(
    load_s=1.5,
    peak_mib={DeviceId("nvidia0"): 7000},
    reported=Footprint(source=Source.REPORTED, host_mib=300, gpu_mib=6900),
    n_ctx_slot=4096,
    fit=FIT,
    widest=FIT,
    at_s=1e9,
)


def spec_of(name: str = "a", **fields: Any) -> ModelSpec:
    table = {"path": "/a.gguf", **fields}
    return parse_config({"models": {name: table}}).models[ModelId(name)]


def key(spec: ModelSpec, program: str = "/bin/p 1", version: str = "1") -> LaunchKey:
    return launch_key(spec, program=program, files={"/a.gguf": version})


def test_figures_survive_the_file() -> None:
    """Every field of them, and their order."""
    figures = LearnedFigures().with_figures(HERE, KEY, LEARNED)
    figures = figures.with_figures(THERE, LaunchKey("l"), NOTHING)
    assert decode(encode(figures)) == figures
    assert list(decode(encode(figures)).machines()) == [HERE, THERE]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"format": 1}',
        b'{"format": 2, "launches": []}',
        b'{"format": 1, "launches": [{"machine": "m", "launch": "l", "figures": {"load_s": -1}}]}',
        b'{"format": 1, "launches": [{"machine": "m", "launch": 1, "figures": {}}]}',
        b'{"format": 1, "launches": ' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_broken_file_is_refused(data: bytes) -> None:
    """With a reason, whatever is in it."""
    with pytest.raises(ValueError, match=r"."):
        decode(data)


def test_the_least_recently_used_leave() -> None:
    """The file has a bound; a load makes its launch the last to leave."""
    figures = LearnedFigures()
    for number in range(MAX_LAUNCHES):
        figures = figures.with_figures(HERE, LaunchKey(f"{number}"), LEARNED)
    figures = figures.with_figures(HERE, LaunchKey("0"), LEARNED)
    figures = figures.with_figures(HERE, LaunchKey("new"), LEARNED)
    assert len(figures) == MAX_LAUNCHES
    assert figures.of(HERE, LaunchKey("0")) == LEARNED
    assert figures.of(HERE, LaunchKey("1")) == NOTHING


def test_figures_of_another_machine() -> None:
    """They say nothing about this one."""
    figures = LearnedFigures().with_figures(THERE, KEY, LEARNED)
    assert figures.of(HERE, KEY) == NOTHING


@pytest.mark.parametrize(
    "other",
    [
        key(spec_of(args=["--jinja"])),
        key(spec_of(path="/b.gguf")),
        key(spec_of(mmproj="/p.gguf")),
        key(spec_of(spawn={"env": {"A": "1"}})),
        key(spec_of(spawn={"cwd": "/"})),
        key(spec_of(), program="/bin/p 2"),
        key(spec_of(), version="2"),
    ],
)
def test_what_makes_another_launch(other: LaunchKey) -> None:
    """Everything that a load depends on."""
    assert other != key(spec_of())


def test_what_makes_no_other_launch() -> None:
    """The name of a model and its limits change nothing about its load."""
    assert key(spec_of("b", max_queued=3, spawn={"ready_timeout_s": 5})) == key(spec_of())


def test_machines_differ_by_identity_and_gpus() -> None:
    """The order in which GPUs are found is no difference."""
    one = machine_id("x", ["A", "B"])
    assert one == machine_id("x", ["B", "A"])
    assert len({one, machine_id("y", ["A", "B"]), machine_id("x", ["A"])}) == 3


def test_the_identity_of_this_machine(tmp_path: Path) -> None:
    """It is that of the file; a file that says nothing, in a container, is passed over."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "machine-id").write_text("abc\n")
    assert this_machine(tmp_path) == machine_id("abc", [])
    (tmp_path / "etc" / "machine-id").write_text("uninitialized\n")
    assert this_machine(tmp_path) not in (machine_id("abc", []), machine_id("uninitialized", []))


def test_a_replaced_file_is_another_launch(tmp_path: Path) -> None:
    """Of the model as of the program."""
    model, program = tmp_path / "m.gguf", tmp_path / "llama-server"
    model.write_bytes(b"1")
    program.write_text("1")
    program.chmod(0o755)
    command = [str(program), "-m", "$path", "--port", "$port"]
    spec = spec_of(path=str(model), spawn={"command": command})
    keys = {key_of(spec)}
    model.write_bytes(b"12")
    keys.add(key_of(spec))
    program.write_text("12")
    keys.add(key_of(spec))
    assert len(keys) == 3
    assert None not in keys
    program.unlink()
    assert key_of(spec) is None


def test_a_load_adds_to_what_is_known() -> None:
    """The last choice of the fitting counts, and the widest is remembered."""
    narrow = Fit(n_ctx=2048, n_ctx_full=8192, n_gpu_layers=10)
    learned = after_load(LEARNED, load_s=2.0, at_s=2e9, fit=narrow, reported=None, n_ctx_slot=None)
    assert (learned.load_s, learned.at_s, learned.n_ctx_slot) == (2.0, 2e9, 4096)
    assert (learned.fit, learned.widest) == (narrow, FIT)
    assert (learned.peak_mib, learned.reported) == (LEARNED.peak_mib, LEARNED.reported)


class Store:
    """A file of figures, written when the test says so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.queue: list[Any] = []
        self.launches = LearnedLaunches(path, HERE, read_figures(path, HERE), self.queue.append)

    def write(self) -> None:
        while self.queue:
            self.queue.pop(0)()


def test_the_file_is_written_and_read(tmp_path: Path) -> None:
    """A later life of the router knows what this one learned."""
    store = Store(tmp_path / "learned.json")
    store.launches.update(KEY, LEARNED)
    store.launches.update(LaunchKey("l"), LEARNED)
    assert len(store.queue) == 1
    store.write()
    assert Store(store.path).launches.of(KEY) == LEARNED
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_failed_start_forgets_the_choice(tmp_path: Path) -> None:
    """llama.cpp fits the model again at the next one."""
    store = Store(tmp_path / "learned.json")
    store.launches.update(KEY, LEARNED)
    store.launches.forget_fit(KEY)
    assert store.launches.of(KEY).fit is None
    assert store.launches.of(KEY).widest == FIT
    store.launches.forget_fit(LaunchKey("unknown"))


def test_a_broken_file_is_kept_aside(tmp_path: Path) -> None:
    """The router starts without figures, and a person may look at the file."""
    path = tmp_path / "learned.json"
    path.write_text("{")
    assert len(read_figures(path, HERE, keep_broken=True)) == 0
    assert path.exists()
    assert len(read_figures(path, HERE)) == 0
    assert not path.exists()
    assert (tmp_path / "learned.broken").read_text() == "{"


def test_a_file_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    """It costs the figures, never the router."""
    path = tmp_path / "learned.json"
    path.mkdir()
    store = Store(path)
    store.launches.update(KEY, LEARNED)
    store.write()
    assert store.launches.of(KEY) == LEARNED
