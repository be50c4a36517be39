"""The address of a router: the sockets it listens on, and the runtime file that names them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs

from .. import runtime_file
from ..config.load import LoadedConfig
from ..core.access.gate import Gate
from ..core.config.config import Config
from ..core.config.specs import RouterSpec
from ..errors.config import ConfigError, Problem
from ..gateway.server import ListenError, ListenerSet, listen
from ..logs.events import log
from ..threads import in_thread
from .listeners import exposure_fault, hosts_of, url_of


@attrs.define(eq=False, kw_only=True)
class Address:
    """The addresses on which a router listens now, and the file by which commands find it.

    Attributes:
        loaded: The configuration that it was started with.
        listeners: Its listening sockets.
        fixed: Whether systemd opened the sockets; the configured address is then ignored.
        gate: Access control, which compares Host headers with the listening addresses.
        runtime_path: The file by which commands find it.
        token_path: The file of the router's own admin token.
        token: Returns the admin token in force, if the configuration sets it.
        port: The port of the addresses that have none of their own.
        urls: Its base URLs.
    """

    loaded: LoadedConfig
    listeners: ListenerSet
    fixed: bool
    gate: Gate
    runtime_path: Path
    token_path: Path
    token: Callable[[], str | None]
    port: int
    urls: tuple[str, ...] = attrs.field(init=False)
    _written: RouterSpec = attrs.field(init=False)  # [router] as written in the file
    _in_use: RouterSpec = attrs.field(init=False)  # its host may be that of the command line

    def __attrs_post_init__(self) -> None:
        self.urls = tuple(map(url_of, self.listeners.sockets))
        self._written = self.loaded.as_written
        self._in_use = self.loaded.config.router
        self.gate.listens_on(hosts_of(self.listeners.sockets))

    async def follow(self, config: Config) -> None:
        """Listen on the addresses of *config*, if the file named others before.

        Raises:
            ConfigError: if they cannot be used; then nothing has changed.
        """
        before, after = self._written, config.router
        in_use = attrs.evolve(
            after, host=self._in_use.host if after.host == before.host else after.host
        )
        for each in hosts_of(self.listeners.sockets) if self.fixed else in_use.hosts:
            if fault := exposure_fault(each, config):
                raise ConfigError((Problem(("router", "host"), fault),))
        if not self.fixed and (before.host, before.port) != (after.host, after.port):
            same_port = after.port == before.port
            await self._move(in_use.addresses, self.port if same_port else after.port)
        self._written, self._in_use = after, in_use

    async def _move(self, addresses: tuple[str, ...], port: int) -> None:
        """Listen on other addresses; existing connections go on.

        Raises:
            ConfigError: if they cannot be used.
        """
        old = self.listeners.sockets
        try:
            opened = await in_thread(
                partial(listen, addresses, port, replacing=old), abandon_on_cancel=True
            )
        except ListenError as exc:
            raise ConfigError((Problem(("router", "port"), str(exc)),)) from exc
        self.port = opened.port
        self.listeners.replace(opened.sockets)
        self.gate.listens_on(hosts_of(opened.sockets))
        self.urls = tuple(map(url_of, opened.sockets))
        log.info("router.moved", urls=self.urls)
        self.announce()

    def announce(self) -> None:
        """Write the runtime file, by which commands find this router."""
        token = self.token()
        kept_at = runtime_file.token_path(self.runtime_path)
        content = runtime_file.RuntimeFile(
            pid=os.getpid(),
            urls=self.urls,
            config=str(self.loaded.path),
            token_file=str(self.token_path if token is None else kept_at),
        )
        try:
            runtime_file.write(self.runtime_path, content, token)
        except OSError as exc:
            log.warning("router.hidden", path=str(self.runtime_path), reason=exc.strerror)

    @contextlib.contextmanager
    def findable(self) -> Iterator[None]:
        """Let commands find this router inside the ``with`` block."""
        self.announce()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                runtime_file.remove(self.runtime_path)
