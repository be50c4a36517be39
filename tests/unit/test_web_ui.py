"""Whose chat UI is served, and to whom."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.control.llama_cpp.ui_backends import (
    ASSET,
    RootContent,
    UiBackend,
    UiBackends,
    frame_policy,
    is_chat_ui,
    root_content,
)
from llama_router.core.config.names import ModelId

A, B, C = (UiBackend(ModelId(name), pid) for pid, name in enumerate("abc", 1))

#: What browsers send when a person opens a page.
NAVIGATION = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "mode", "wanted"),
    [
        (NAVIGATION, "navigate", RootContent.PAGE),
        ("text/html", "", RootContent.PAGE),  # an old browser, or curl on behalf of a person
        ("*/*", "", RootContent.DATA),  # curl, the SDKs
        ("", "", RootContent.DATA),
        ("application/json", "", RootContent.DATA),
        ("*/*", "cors", RootContent.UI),  # a service worker
        ("*/*", "same-origin", RootContent.UI),
        ("application/json", "cors", RootContent.DATA),
    ],
)
def test_who_asks_is_seen_by_two_fields(accept: str, mode: str, wanted: RootContent) -> None:
    """Programs do not say how they fetch, and service workers do not say what."""
    assert root_content(accept, mode) is wanted


@pytest.mark.parametrize(
    ("status", "server", "kind", "expected"),
    [
        (200, b"llama.cpp", b"text/html; charset=utf-8", True),
        (304, b"llama.cpp", b"", True),
        (200, b"llama.cpp", b"application/json", False),
        (404, b"llama.cpp", b"text/html", False),
        (200, b"whisper.cpp", b"text/html", False),
        (200, b"uvicorn", b"text/html", False),
        (200, b"", b"text/html", False),
    ],
)
def test_only_llama_cpps_page_counts(status, server, kind, expected) -> None:
    """Pages of other servers would ask the router for what it does not have."""
    assert is_chat_ui(status, server, kind) is expected


@pytest.mark.parametrize(
    "path",
    [
        "_app/immutable/bundle.CheKa0wg.js",
        "_app/immutable/assets/bundle.DeU5_J36.css",
        "_app/version.json",
        "recommended-mcp/exa.ico",
        "manifest.webmanifest",
        "workbox-b3c04f83.js",
        "apple-splash-portrait-dark-750x1334.png",
        "index.html",
    ],
)
def test_files_of_the_ui_are_known(path: str) -> None:
    """Whatever their hashes are."""
    assert re.fullmatch(ASSET, path)


@pytest.mark.parametrize(
    "path",
    ["", "tools", "x/y.js", "_app", "_app/", "_app/../v1/models", "_app/.git", ".env.json", "a.py"],
)
def test_other_paths_are_not(path: str) -> None:
    """They keep their 404."""
    assert not re.fullmatch(ASSET, path)


@given(st.text(max_size=40))
def test_no_path_leads_out_of_its_folder(path: str) -> None:
    """Whatever is let through has no empty part and none that begins with a dot."""
    if re.fullmatch(ASSET, path):
        assert all(part and not part.startswith(".") for part in path.split("/"))


def test_the_chosen_host_stays_first_while_it_is_ready() -> None:
    """A page and its files come from one backend, whatever is started meanwhile."""
    hosts = UiBackends()
    assert hosts.candidates([B, A]) == [B, A]
    hosts.note_ui(B)
    assert hosts.candidates([C, A, B]) == [B, C, A]
    assert hosts.candidates([C, A]) == [C, A]
    assert hosts.candidates([C, B]) == [B, C]


def test_who_has_no_ui_is_not_asked_again() -> None:
    """Until there is another process."""
    hosts = UiBackends()
    hosts.note_no_ui(A)
    assert hosts.candidates([A, B]) == [B]
    again = UiBackend(A.model, 9)
    assert hosts.candidates([again, B]) == [again, B]
    assert hosts.candidates([A, B]) == [A, B]  # forgotten with the process


@pytest.mark.parametrize(
    ("origins", "policy"),
    [
        ((), "frame-ancestors 'self'"),
        (("https://chat.example.org",), "frame-ancestors 'self' https://chat.example.org"),
        (("http://[::1]:3000", "*"), "frame-ancestors 'self' http://[::1]:3000 *"),
        (("https://x; script-src *", "null"), "frame-ancestors 'self'"),
        (
            ("localhost",),
            (
                "frame-ancestors 'self' http://localhost:* https://localhost:* "
                "http://127.0.0.1:* https://127.0.0.1:*"
            ),
        ),
    ],
)
def test_frames_are_for_pages_that_may_use_the_router(origins, policy: str) -> None:
    """What is no origin adds nothing to the policy."""
    assert frame_policy(origins) == policy
