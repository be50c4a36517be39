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
    """The address on which a router listens now, and the file by which commands find it.

    Attributes:
        loaded: The configuration that it was started with.
        listeners: Its listening sockets.
        fixed: Whether systemd opened the sockets; the configured address is then ignored.
        gate: Access control, which compares Host headers with the listening addresses.
        runtime_path: The file by which commands find it.
        token_path: The file of the router's own admin token.
        token: Returns the admin token in force, if the configuration sets it.
        urls: Its base URLs.
    """

    loaded: LoadedConfig
    listeners: ListenerSet
    fixed: bool
    gate: Gate
    runtime_path: Path
    token_path: Path
    token: Callable[[], str | None]
    urls: tuple[str, ...] = attrs.field(init=False)
    _written: RouterSpec = attrs.field(init=False)  # [router] as written in the file
    _host: str = attrs.field(init=False)  # the host in use; the command line may have set it

    def __attrs_post_init__(self) -> None:
        self.urls = tuple(map(url_of, self.listeners.sockets))
        self._written = self.loaded.as_written
        self._host = self.loaded.config.router.host
        self.gate.listens_on(hosts_of(self.listeners.sockets))

    async def follow(self, config: Config) -> None:
        """Listen on the address of *config*, if the file named another one before.

        Raises:
            ConfigError: if that address cannot be used; then nothing has changed.
        """
        before, after = self._written, config.router
        host = after.host if after.host != before.host else self._host
        for each in hosts_of(self.listeners.sockets) if self.fixed else (host,):
            if fault := exposure_fault(each, config):
                raise ConfigError((Problem(("router", "host"), fault),))
        if not self.fixed and (before.host, before.port) != (after.host, after.port):
            same_port = int(self.listeners.sockets[0].getsockname()[1])
            port = after.port if after.port != before.port else same_port
            await self._move(host, port)
        self._written, self._host = after, host

    async def _move(self, host: str, port: int) -> None:
        """Listen on another address; existing connections go on.

        Raises:
            ConfigError: if it cannot be used.
        """
        old = self.listeners.sockets
        try:
            sockets = await in_thread(
                partial(listen, host, port, replacing=old), abandon_on_cancel=True
            )
        except ListenError as exc:
            raise ConfigError((Problem(("router", "port"), str(exc)),)) from exc
        self.listeners.replace(sockets)
        self.gate.listens_on(hosts_of(sockets))
        self.urls = tuple(map(url_of, sockets))
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
