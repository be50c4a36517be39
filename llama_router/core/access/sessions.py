"""Sessions of browsers that signed in to the dashboard: in memory, as digests. Pure.

A session never outlives the secret that it came from: it stores the secret's digest, and
`Gate` looks at each request whether that is still one of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from .browsers import is_same_origin
from .hosts import host_of

#: Time after which a session without requests ends, in seconds.
IDLE_S: Final = 12 * 3600.0

#: Most sessions of one secret, or of one user of this machine; the one that was idle for longest
#: makes room for another one.
MAX_SESSIONS: Final = 32

#: Begin of the cookie's name. Browsers send a cookie to every port of a host, so the port is
#: part of the name: two routers on one machine do not sign each other out.
_PREFIX: Final = b"llama-router-"

#: Most cookies of that name in one request that are tried.
_MAX_TRIED: Final = 4

#: Fields of requests that a proxy has passed on.
_FORWARDED: Final = frozenset((b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"))


@attrs.define(eq=False, kw_only=True)
class Session:
    """A browser that has signed in.

    Attributes:
        secret: Digest of the admin token or API key that it came from; None if the router opened
            without one, for its own user.
        uid: The user of this machine that the browser's process belongs to; None if the browser
            is not on this machine.
        used_s: Clock time of its latest request, in seconds.
    """

    secret: bytes | None
    uid: int | None
    used_s: float


class Sessions:
    """All sessions, by the digest of the text in their cookie.

    Args:
        clock: Returns the clock time, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sessions: dict[bytes, Session] = {}

    def begin(self, text: bytes, *, secret: bytes | None, uid: int | None) -> None:
        """Begin a session, with the cookie *text*, which must be random."""
        now_s = self._clock()
        self._drop_idle(now_s)
        same = [
            key
            for key, session in self._sessions.items()
            if session.secret == secret and (secret is not None or session.uid == uid)
        ]
        if len(same) >= MAX_SESSIONS:
            del self._sessions[min(same, key=lambda key: self._sessions[key].used_s)]
        self._sessions[_digest(text)] = Session(secret=secret, uid=uid, used_s=now_s)

    def find(self, texts: Iterator[bytes]) -> Session | None:
        """Return the session of the first of *texts* that has one, and take note of its use."""
        now_s = self._clock()
        for text in texts:
            session = self._sessions.get(_digest(text))
            if session is not None and now_s - session.used_s < IDLE_S:
                session.used_s = now_s
                return session
        return None

    def end(self, ended: Session) -> None:
        """End a session."""
        self._sessions = {key: each for key, each in self._sessions.items() if each is not ended}

    def _drop_idle(self, now_s: float) -> None:
        self._sessions = {
            key: session
            for key, session in self._sessions.items()
            if now_s - session.used_s < IDLE_S
        }


def cookie_name(host: bytes) -> bytes:
    """Return the name of the cookie of the router that is asked as *host*."""
    _, colon, port = host.rpartition(b":")
    return _PREFIX + (port if colon and port.isdigit() else b"0")


def cookie_texts(cookies: bytes, host: bytes) -> Iterator[bytes]:
    """Yield the texts of the router's cookie in a field ``Cookie``; usually one."""
    name, tried = cookie_name(host), 0
    for pair in cookies.split(b";"):
        key, equals, text = pair.strip().partition(b"=")
        if key == name and equals and tried < _MAX_TRIED:
            tried += 1
            yield text


def without_session(cookies: bytes) -> bytes:
    """Return a field ``Cookie`` without cookies of routers, which no backend gets."""
    pairs = (pair.strip() for pair in cookies.split(b";"))
    return b"; ".join(pair for pair in pairs if pair and not pair.startswith(_PREFIX))


def is_from_own_page(seen: dict[bytes, bytes]) -> bool:
    """Return whether the browser says that a page of the router sent a request.

    ``SameSite`` alone is not enough: for it, every port of a host is the same site.

    Args:
        seen: The header fields, among them Host, Origin, Sec-Fetch-Site and Referer.
    """
    host, origin = seen.get(b"host", b""), seen.get(b"origin")
    if origin is not None and not is_same_origin(origin, host):
        return False
    if (site := seen.get(b"sec-fetch-site")) is not None:
        return site == b"same-origin"
    if origin is not None:
        return True
    # Over plain HTTP to another machine, a read has neither. A page cannot forge this field.
    referer = seen.get(b"referer")
    return referer is not None and is_same_origin(b"/".join(referer.split(b"/", 3)[:3]), host)


def is_direct(seen: dict[bytes, bytes], is_loopback: Callable[[str], bool]) -> bool:
    """Return whether the client asks this machine by one of its own names, through no proxy.

    A proxy on this machine may pass requests of others on, as the user that it runs as.
    """
    host = host_of(seen.get(b"host", b"").decode("latin-1"))
    return host is not None and is_loopback(host) and not _FORWARDED & seen.keys()


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
