"""Finds out what models take: from their settings, from measurements, or from their files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Final

import attrs

from ..backends.environment import find_program
from ..core.config.command import command_line, environment
from ..core.config.config import Config
from ..core.config.kinds import is_llama_server
from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec
from ..core.memory.devices import Device, DeviceId
from ..core.memory.estimate import estimate
from ..core.memory.flags import read_flags
from ..core.memory.footprint import Footprint
from ..core.memory.footprints import Sources, footprint_from
from ..core.memory.view import Claims
from ..errors.backends import SpawnError
from ..models.gguf_reader import GgufError, KnownArrays
from ..models.tensors import read_weights
from ..threads import ThreadRefusedError, in_thread
from ..workers.interpreter_settings import loop_goes_first

#: Models that are looked up by one call of a thread: those that are wanted are among the first.
_AT_ONCE: Final = 16

#: Changes of a measured figure that are not taken over, as a part of it.
_NOISE: Final = 0.02

#: Factor by which the figure of a model is raised that ran out of memory.
_RAISED: Final = 1.25

#: Stands for a port in commands that are only read.
_ANY_PORT: Final = 1


@attrs.frozen
class _Estimated:
    """An estimate, and what it was made for.

    Attributes:
        spec: The settings.
        versions: The versions of the files.
        has_gpu: There was a GPU.
        footprint: The estimate; None if there is none.
    """

    spec: ModelSpec
    versions: Mapping[str, str]
    has_gpu: bool
    footprint: Footprint | None


class Footprints:
    """Knows what models take, and finds out what it does not know.

    Attributes:
        load_s: How long the last load of each model took, in seconds.
    """

    def __init__(self) -> None:
        self._estimated: dict[ModelId, _Estimated] = {}
        self._measured: dict[ModelId, tuple[ModelSpec, Claims]] = {}
        self._arrays = KnownArrays()
        self._known: dict[ModelId, Footprint] = {}
        self._known_for: tuple[object, ...] = ()
        self.load_s: dict[ModelId, float] = {}

    async def find_some(
        self,
        config: Config,
        devices: Mapping[DeviceId, Device],
        wanted: Collection[ModelId],
    ) -> bool:
        """Estimate some of the models that were not estimated yet; return whether that was all.

        Args:
            config: The configuration in force.
            devices: The devices that are used.
            wanted: The models that are looked at first.
        """
        has_gpu = any(device.is_gpu for device in devices.values())
        missing = [
            spec for spec in config.models.values() if not self._is_known(spec, config, has_gpu)
        ]
        if not missing:
            return True
        missing.sort(key=lambda spec: (spec.id not in wanted, not spec.keep_loaded))
        chunk = list(islice(missing, _AT_ONCE))
        try:
            found = await in_thread(
                partial(self._estimate_all, chunk, has_gpu=has_gpu), abandon_on_cancel=True
            )
        except ThreadRefusedError:
            return True  # the next reading is another chance
        for spec, footprint in zip(chunk, found, strict=True):
            versions = config.file_versions.get(spec.id, {})
            self._estimated[spec.id] = _Estimated(spec, versions, has_gpu, footprint)
        self._known_for = ()
        return len(missing) == len(chunk)

    def known(
        self, config: Config, devices: Mapping[DeviceId, Device]
    ) -> Mapping[ModelId, Footprint]:
        """Return the footprint of each model that was looked up, from its best source."""
        known_for = (config, tuple(devices.values()))
        if self._known_for[:1] != (config,) or self._known_for != known_for:
            self._known_for = known_for
            has_gpu = any(device.is_gpu for device in devices.values())
            self._known = {
                spec.id: self._footprint(spec, devices)
                for spec in config.models.values()
                if self._is_known(spec, config, has_gpu)
            }
        return self._known

    def note_measured(self, spec: ModelSpec, claims: Claims) -> None:
        """Take note of what a backend was seen to take at most."""
        former = self._measured.get(spec.id)
        if former is not None and former[0] is spec:
            known = former[1]
            changes = any(
                abs(mib - known.get(name, 0)) > _NOISE * max(mib, known.get(name, 0))
                for name, mib in claims.items()
            )
            if not changes:
                return
        self._measured[spec.id] = spec, claims
        self._known_for = ()

    def raise_figure(self, spec: ModelSpec, claims: Claims) -> None:
        """Take note that *claims* were not enough for a backend: it ran out of memory."""
        raised = {name: round(mib * _RAISED) for name, mib in claims.items()}
        self._measured[spec.id] = spec, raised
        self._known_for = ()

    def _is_known(self, spec: ModelSpec, config: Config, has_gpu: bool) -> bool:  # noqa: FBT001 -- of the machine
        known = self._estimated.get(spec.id)
        return (
            known is not None
            and known.spec is spec
            and known.has_gpu is has_gpu
            and known.versions == config.file_versions.get(spec.id, {})
        )

    def _footprint(self, spec: ModelSpec, devices: Mapping[DeviceId, Device]) -> Footprint:
        measured = self._measured.get(spec.id)
        sources = Sources(
            measured=measured[1] if measured is not None and measured[0] is spec else {},
            estimated=self._estimated[spec.id].footprint,
        )
        return footprint_from(spec, sources, devices)

    def _estimate_all(self, specs: Iterable[ModelSpec], *, has_gpu: bool) -> list[Footprint | None]:
        """Return the estimate of each model. Blocks on files."""
        with loop_goes_first():
            return [self._estimate(spec, has_gpu=has_gpu) for spec in specs]

    def _estimate(self, spec: ModelSpec, *, has_gpu: bool) -> Footprint | None:
        """Return the estimate of a llama-server with a readable model; else None."""
        if spec.path is None or not is_llama_server(spec.spawn.command[0]):
            return None
        argv = command_line(spec, port=_ANY_PORT, host="127.0.0.1")
        flags = read_flags(argv, environment(spec, port=_ANY_PORT, host="127.0.0.1"))
        try:
            is_embedded = find_program(argv, path=spec.spawn.env.get("PATH")).is_embedded
            weights = read_weights(spec.path, self._arrays)
            mmproj = (
                read_weights(spec.mmproj, self._arrays)
                if spec.mmproj is not None and spec.mmproj in argv
                else None
            )
        except (GgufError, OSError, SpawnError):
            return None  # the start will say what is wrong with it
        return estimate(weights, flags, has_gpu=has_gpu and not is_embedded, mmproj=mmproj)
