"""What is said about models in llama.cpp's shapes."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from anthropic.types import ModelInfo
from hypothesis import given
from hypothesis import strategies as st

from llama_router.control.llama_cpp.entries import (
    BackendInfo,
    alias_entries,
    anthropic_entry,
    anthropic_list,
    downloading_entry,
    model_entry,
    read_backend_info,
    router_props,
    status_of,
)
from llama_router.control.llama_cpp.events import (
    StatusDeduplicator,
    download_event,
    plain_event,
    progress_event,
    status_event,
)
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec
from llama_router.core.scheduling.lifecycle import TRANSITIONS, Phase, Signal, advance
from llama_router.core.scheduling.model_entry import ModelStatistics
from llama_router.core.scheduling.placement import most_instances
from llama_router.errors.backends import BackendExitedError, SpawnError

ENTRY = {
    "id": "/models/a.gguf",
    "aliases": ["/models/a.gguf"],
    "tags": ["small", 7],
    "object": "model",
    "created": 5,
    "owned_by": "llamacpp",
    "meta": {"n_ctx": 2048},
    "architecture": {"input_modalities": ["text", "audio"], "output_modalities": ["text"]},
}
LIST = {"models": [{"capabilities": ["completion"]}], "object": "list", "data": [ENTRY]}


def spec_of(**fields: Any) -> ModelSpec:
    config = parse_config({"models": {"a": {"path": "a.gguf", **fields}}})
    return config.models[ModelId("a")]


def entry_of(
    phase: Phase, info: BackendInfo | None = None, *, queued: int = 0, **fields: Any
) -> dict[str, Any]:
    error, crashed = fields.pop("error", None), fields.pop("crashed", False)
    statistics = ModelStatistics(
        phase=phase, in_flight=0, queued=queued, failures=0, last_error=error, crashed=crashed
    )
    return model_entry(
        spec_of(**fields), statistics, info, args=["x"], created_s=1, can_remove=False
    )


@pytest.mark.parametrize(
    ("phase", "value"),
    [
        (Phase.STOPPED, "unloaded"),
        (Phase.STARTING, "loading"),
        (Phase.READY, "loaded"),
        (Phase.DRAINING, "loaded"),
        (Phase.STOPPING, "loaded"),
        (Phase.BACKOFF, "unloaded"),
        (Phase.FAILED, "unloaded"),
    ],
)
def test_every_phase_has_a_status(phase: Phase, value: str) -> None:
    """llama.cpp knows fewer of them."""
    assert entry_of(phase)["status"]["value"] == value


def test_a_preset_has_an_entry_of_its_own() -> None:
    """Under the id that a client would send; it is loaded when its model is, and not deleted."""
    spec = spec_of(presets={"high": {"n": 1}, "low": {}}, aliases=["x", "y"])
    statistics = ModelStatistics(
        phase=Phase.READY, in_flight=0, queued=0, failures=0, last_error=None
    )
    whole, high = (
        model_entry(spec, statistics, None, args=["x"], created_s=1, can_remove=True, preset=preset)
        for preset in (None, "high")
    )
    assert (whole["id"], whole["aliases"], whole["can_remove"]) == ("a", ["x", "y"], True)
    assert (high["id"], high["aliases"]) == ("a:high", ["x:high", "y:high"])
    assert high["status"] == whole["status"]
    assert high["can_remove"] is False
    assert high.keys() == whole.keys()


def test_a_model_that_waits_for_its_turn_is_loading() -> None:
    """A client that asked for it must not think that nothing happens."""
    assert entry_of(Phase.STOPPED, queued=1)["status"]["value"] == "loading"


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.BACKOFF])
def test_a_failed_model_says_so(phase: Phase) -> None:
    """With the exit code, if its process ended; also while it may be tried again."""
    exited = BackendExitedError("it ended", returncode=-9)
    assert entry_of(phase, error=exited)["status"] == {
        "value": "unloaded",
        "args": ["x"],
        "failed": True,
        "exit_code": -9,
    }


def test_a_model_that_crashed_while_idle_says_so_until_its_next_start() -> None:
    """The pause before a restart is over, and nothing restarts it."""
    exited = BackendExitedError("it ended", returncode=-9)
    status = entry_of(Phase.STOPPED, error=exited, crashed=True)["status"]
    assert (status["value"], status["failed"], status["exit_code"]) == ("unloaded", True, -9)


@pytest.mark.parametrize("fields", [{"queued": 1}, {"keep_loaded": True}])
def test_a_model_that_is_tried_again_is_loading(fields: dict[str, Any]) -> None:
    """Because somebody waits for it, or because it is to run in any case."""
    exited = BackendExitedError("it ended", returncode=-9)
    status = entry_of(Phase.BACKOFF, error=exited, **fields)["status"]
    assert status == {"value": "loading", "args": ["x"]}


def test_a_program_that_did_not_start_has_no_exit_code() -> None:
    """There was no process."""
    assert "exit_code" not in entry_of(Phase.FAILED, error=SpawnError("no program"))["status"]


def test_a_backend_adds_what_only_it_knows() -> None:
    """Its name for the model and its aliases would not be understood here."""
    info = read_backend_info(msgspec.json.encode(LIST))
    entry = entry_of(Phase.STOPPED, info, aliases=["b"])
    assert (entry["id"], entry["aliases"], entry["created"]) == ("a", ["b"], 1)
    assert entry["tags"] == ["small"]
    assert entry["meta"] == {"n_ctx": 2048}
    assert entry["capabilities"] == ("completion",)
    assert entry["architecture"] == ENTRY["architecture"]


def test_a_projector_makes_images_an_input() -> None:
    """That is known before the model was ever loaded, from its command."""
    assert entry_of(Phase.STOPPED)["architecture"]["input_modalities"] == ["text"]
    seeing = entry_of(Phase.STOPPED, mmproj="p.gguf", args=["--mmproj", "$mmproj"])
    assert seeing["architecture"]["input_modalities"] == ["text", "image"]


def test_an_entry_has_what_the_settings_declare() -> None:
    """Abilities, context, text and further facts; a smaller context of the backend counts."""
    fields: dict[str, Any] = {"description": "quick", "metadata": {"owner": "team"}}
    declared: dict[str, Any] = {
        "capabilities": ["completion", "tools"],
        "context_length": 65536,
        **fields,
    }
    assert declared.items() <= entry_of(Phase.STOPPED, **declared).items()
    info = read_backend_info(msgspec.json.encode(LIST))
    loaded = entry_of(Phase.READY, info, **declared)
    assert loaded["capabilities"] == ["completion", "tools"]
    assert loaded["context_length"] == 2048


def test_an_entry_has_a_name_for_people_and_facts_where_llama_swap_has_them() -> None:
    """Facts of the backend stay; Anthropic's clients get the name, too."""
    info = read_backend_info(msgspec.json.encode(LIST))
    declared: dict[str, Any] = {"name": "Quick One", "metadata": {"owner": "team"}}
    entry = entry_of(Phase.READY, info, **declared)
    assert entry["name"] == "Quick One"
    assert entry["meta"]["llamaswap"] == {"owner": "team"}
    assert entry["meta"]["n_ctx"] == 2048
    assert anthropic_entry(entry)["display_name"] == "Quick One"


def test_an_alias_may_have_an_entry_of_its_own() -> None:
    """It differs by its id only, and has no further names."""
    entry = entry_of(Phase.STOPPED, aliases=["b", "c"])
    first, second = alias_entries(entry)
    assert (first["id"], second["id"], first["aliases"]) == ("b", "c", [])
    assert first["status"] == entry["status"]


def test_clients_of_anthropic_get_their_own_form() -> None:
    """It has that API's fields only, and one page."""
    args = ["--ctx-size", "1024"]
    entries = [entry_of(Phase.STOPPED, args=args), downloading_entry("u/r", 1, 2, created_s=1)]
    document = anthropic_list(entries)
    first, second = map(ModelInfo.model_validate, document.pop("data"))
    assert (first.id, first.display_name, first.type) == ("a", "a", "model")
    assert first.created_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert (first.max_input_tokens, second.max_input_tokens) == (1024, None)
    assert document == {"has_more": False, "first_id": "a", "last_id": "u/r"}
    assert anthropic_list([])["first_id"] is None


def test_an_entry_has_the_context_of_the_command() -> None:
    """It is known before the first load."""
    assert entry_of(Phase.STOPPED, args=["--ctx-size", "16384"])["context_length"] == 16384


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[]", b"{}", b'{"data": 1}', b'{"data": []}', b'{"data": [1]}', b"[" * 5000],
)
def test_other_lists_say_nothing(body: bytes) -> None:
    """Any program may be a backend."""
    assert read_backend_info(body) is None


def test_a_backend_with_several_models_says_nothing() -> None:
    """Nobody knows which of them is meant."""
    assert read_backend_info(msgspec.json.encode({"data": [ENTRY, ENTRY]})) is None


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["data", "models", "tags", "capabilities", "meta"]) | st.text(), x
            )
        ),
    )
)
def test_whatever_a_backend_says_an_entry_can_be_sent(document: Any) -> None:
    """And the router's own fields are in it."""
    info = read_backend_info(msgspec.json.encode({"data": [document], "models": [document]}))
    entry = msgspec.json.decode(msgspec.json.encode(entry_of(Phase.READY, info)))
    assert (entry["id"], entry["object"]) == ("a", "model")
    assert entry["status"]["value"] == "loaded"


def test_unloaded_comes_with_an_exit_code() -> None:
    """By it a client tells a model that was unloaded from one that failed."""
    codes = [
        status_event("a", "unloaded", phase, code, None)["data"]["exit_code"]
        for phase, code in [
            (Phase.STOPPED, None),
            (Phase.STOPPED, -9),  # of an earlier failure
            (Phase.FAILED, None),
            (Phase.FAILED, -9),
            (Phase.BACKOFF, -9),
        ]
    ]
    assert codes == [0, 0, 1, -9, -9]


def test_loaded_comes_with_the_entry() -> None:
    """So nobody has to ask again."""
    assert status_event("a", "loaded", Phase.READY, None, {"id": "a"}) == {
        "model": "a",
        "event": "status_change",
        "data": {"status": "loaded", "info": {"id": "a"}},
    }


@pytest.mark.parametrize(
    ("state", "event"),
    [
        ("queued", "model_status"),
        ("running", "download_progress"),
        ("done", "download_finished"),
        ("failed", "download_failed"),
        ("cancelled", "download_failed"),
    ],
)
def test_every_state_of_a_download_has_an_event(state: str, event: str) -> None:
    """A cancelled one has failed, for llama.cpp."""
    sent = download_event("u/r:Q4", state, 1, None)
    assert sent["event"] == event
    assert sent["model"] == "u/r:Q4"


def test_progress_is_in_the_entry_and_in_the_event() -> None:
    """In the same shape."""
    entry = downloading_entry("u/r", 1, 4, created_s=1)
    assert entry["status"]["value"] == "downloading"
    assert entry["progress"] == download_event("u/r", "running", 1, 4)["data"]["progress"]
    assert entry["progress"] == {"u/r": {"done": 1, "total": 4}}


def test_the_router_says_that_it_is_one() -> None:
    """llama.cpp's UI shows a choice of models then."""
    assert router_props("1.2", max_instances=1, autoload=True)["role"] == "router"
    assert plain_event("models_reload") == {"model": "*", "event": "models_reload", "data": {}}


def test_the_router_says_how_many_models_can_run_at_once() -> None:
    """The largest group decides, and a model that is kept loaded runs beside it."""
    tables: dict[str, dict[str, Any]] = {
        "alone": {},
        "one": {"group": "g"},
        "two": {"group": "g"},
        "kept": {"keep_loaded": True},
    }
    given = {name: {"spawn": {"command": ["x"]}, **table} for name, table in tables.items()}
    models = parse_config({"models": given}).models.values()
    assert most_instances(models) == 3
    assert most_instances([]) == 0


def test_progress_has_the_form_that_the_ui_reads() -> None:
    """It adds up stages by their names: one stage stands for all of them."""
    assert progress_event("a", 0.4249) == {
        "model": "a",
        "event": "status_update",
        "data": {
            "status": "loading",
            "progress": {"stages": ["text_model"], "current": "text_model", "value": 0.42},
        },
    }


def statuses_of(
    *moves: tuple[Phase, Phase | None], begin: Phase = Phase.STOPPED, awaited: bool = False
) -> list[str]:
    """Return the statuses that are sent; each phase comes with the present one at that time."""
    statuses = StatusDeduplicator({ModelId("m"): (begin, awaited)})
    found = [
        statuses.next_status(ModelId("m"), phase, now, awaited=awaited) for phase, now in moves
    ]
    return [status for status in found if status is not None]


def test_a_load_that_fails_is_told_once() -> None:
    """That it is tried again after a pause, or given up, is no second load."""
    moves = [Phase.STARTING, Phase.BACKOFF, Phase.STOPPED, Phase.STARTING]
    moves += [Phase.BACKOFF, Phase.FAILED, Phase.STOPPED]
    again = {2: Phase.STARTING}
    changes = ((phase, again.get(i, phase)) for i, phase in enumerate(moves))
    assert statuses_of(*changes, awaited=True) == ["loading", "unloaded"]


def test_a_failed_model_that_nobody_waits_for_is_told_as_unloaded() -> None:
    """At once, and once: nothing is loaded in its pause, nor after it."""
    crash = [(phase, phase) for phase in (Phase.BACKOFF, Phase.STOPPED)]
    assert statuses_of(*crash, begin=Phase.READY) == ["unloaded"]


def test_a_failed_model_whose_waiter_leaves_is_told_as_unloaded() -> None:
    """When its pause is over, and it is not started."""
    statuses = StatusDeduplicator({ModelId("m"): (Phase.READY, False)})
    seen = [
        statuses.next_status(ModelId("m"), phase, phase, awaited=awaited)
        for phase, awaited in ((Phase.BACKOFF, True), (Phase.STOPPED, False))
    ]
    assert seen == ["loading", "unloaded"]


def test_a_model_that_runs_again_by_now_was_loading() -> None:
    """Whoever is told late need not see each failure."""
    moves = [(Phase.BACKOFF, Phase.READY), (Phase.STOPPED, Phase.READY)]
    moves += [(Phase.STARTING, Phase.READY), (Phase.READY, Phase.READY)]
    assert statuses_of(*moves, begin=Phase.READY) == ["loading", "loaded"]


def test_a_model_that_makes_way_is_told_when_it_is_gone() -> None:
    """Not while it finishes what it serves, or is being stopped."""
    going = [(phase, Phase.STOPPED) for phase in (Phase.DRAINING, Phase.STOPPING, Phase.STOPPED)]
    assert statuses_of(*going, begin=Phase.READY) == ["unloaded"]


@given(
    st.lists(st.sampled_from(Signal), max_size=30),
    st.sampled_from(Phase),
    st.booleans(),
    st.data(),
)
def test_no_status_is_told_twice_and_the_last_one_is_told(signals, begin, awaited, data) -> None:
    """However far behind whoever follows is."""
    phases = [begin]
    for signal in signals:
        if signal in TRANSITIONS[phases[-1]]:
            phases.append(advance(phases[-1], signal))
    moves = []
    for at, phase in enumerate(phases[1:], start=1):
        moves.append((phase, phases[data.draw(st.integers(at, len(phases) - 1))]))
    first, last = (
        status_of(phase, awaited=awaited and phase is Phase.BACKOFF)
        for phase in (begin, phases[-1])
    )
    seen = [first, *statuses_of(*moves, begin=begin, awaited=awaited)]
    assert all(one != other for one, other in itertools.pairwise(seen))
    if phases[-1] not in (Phase.DRAINING, Phase.STOPPING):
        assert seen[-1] == last
