"""Finds out what models take: from their settings, from measurements, or from their files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

import attrs

from ..backends.environment import find_program, inherited
from ..backends.launch import BACKEND_HOST
from ..backends.learned_launches import LearnedLaunches
from ..core.config.command import command_line, environment
from ..core.config.config import Config
from ..core.config.kinds import is_llama_server
from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec
from ..core.memory.devices import Device, DeviceId, DeviceKind
from ..core.memory.estimate import estimate
from ..core.memory.flags import read_flags
from ..core.memory.footprint import Footprint
from ..core.memory.footprints import Sources, footprint_from
from ..core.memory.view import Claims
from ..core.memory.visibility import ProgramView, pinned_devices
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
        seen: What its program sees, and the GPUs that there were.
        footprint: The estimate; None if there is none.
        pinned: The GPUs that its launch names itself; None if it leaves the choice.
    """

    spec: ModelSpec
    versions: Mapping[str, str]
    seen: tuple[object, ...]
    footprint: Footprint | None
    pinned: tuple[DeviceId, ...] | None


class Footprints:
    """Knows what models take, and finds out what it does not know.

    Args:
        environ: The router's environment.
        devices_of: Returns the devices that the program of a model sees; None if not known.
        learned: What was learned from earlier loads, in this life and before.

    Attributes:
        load_s: How long the last load of each model took, in seconds.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        devices_of: Callable[[ModelSpec], Sequence[str] | None],
        learned: LearnedLaunches,
    ) -> None:
        self._learned = learned
        self._environ = environ
        self._devices_of = devices_of
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
        missing = [
            spec for spec in config.models.values() if not self._is_known(spec, config, devices)
        ]
        if not missing:
            return True
        missing.sort(key=lambda spec: (spec.id not in wanted, not spec.keep_loaded))
        chunk = list(islice(missing, _AT_ONCE))
        views = {spec.id: self.view_of(spec, devices) for spec in chunk}
        seen = {spec.id: self._seen(spec, devices) for spec in chunk}
        try:
            found = await in_thread(self._estimate_all, chunk, views, abandon_on_cancel=True)
        except ThreadRefusedError:
            return True  # the next reading is another chance
        for spec, (footprint, pinned) in zip(chunk, found, strict=True):
            versions = config.file_versions.get(spec.id, {})
            self._estimated[spec.id] = _Estimated(spec, versions, seen[spec.id], footprint, pinned)
        self._known_for = ()
        return len(missing) == len(chunk)

    def known(
        self, config: Config, devices: Mapping[DeviceId, Device]
    ) -> Mapping[ModelId, Footprint]:
        """Return the footprint of each model that was looked up, from its best source."""
        known_for = (config, self._learned.revision, tuple(devices.values()))
        if self._known_for[:2] != known_for[:2] or self._known_for != known_for:
            self._known_for = known_for
            learned = ((model, self._learned.of_model(model).load_s) for model in config.models)
            self.load_s = {model: load_s for model, load_s in learned if load_s is not None}
            self._known = {
                spec.id: self._footprint(spec, devices)
                for spec in config.models.values()
                if self._is_known(spec, config, devices)
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
        self._learned.note_peak(spec.id, claims)
        self._known_for = ()

    def raise_figure(
        self, spec: ModelSpec, claims: Claims, devices: Mapping[DeviceId, Device]
    ) -> None:
        """Take note that *claims* were not enough for a backend: it ran out of memory.

        The figure is raised, to all that a device has for models at most.
        """
        raised = {
            name: min(round(mib * _RAISED), max(mib, devices[name].budget_mib))
            for name, mib in claims.items()
            if name in devices and devices[name].kind is not DeviceKind.POOL
        }
        self._measured[spec.id] = spec, raised
        self._learned.note_peak(spec.id, raised)
        self._known_for = ()

    def view_of(self, spec: ModelSpec, devices: Mapping[DeviceId, Device]) -> ProgramView:
        """Return the GPUs as the program of a model knows them."""
        return ProgramView.of(devices, self._devices_of(spec))

    def _seen(self, spec: ModelSpec, devices: Mapping[DeviceId, Device]) -> tuple[object, ...]:
        lines = self._devices_of(spec)
        gpus = (device for device in devices.values() if device.is_gpu)
        return (None if lines is None else tuple(lines), *gpus)

    def _is_known(
        self, spec: ModelSpec, config: Config, devices: Mapping[DeviceId, Device]
    ) -> bool:
        known = self._estimated.get(spec.id)
        return (
            known is not None
            and known.spec is spec
            and known.seen == self._seen(spec, devices)
            and known.versions == config.file_versions.get(spec.id, {})
        )

    def _footprint(self, spec: ModelSpec, devices: Mapping[DeviceId, Device]) -> Footprint:
        measured = self._measured.get(spec.id)
        estimated = self._estimated[spec.id]
        learned = self._learned.of_model(spec.id)
        is_measured = measured is not None and measured[0] is spec
        sources = Sources(
            measured=measured[1] if measured is not None and is_measured else learned.peak_mib,
            reported=learned.reported,
            estimated=estimated.footprint,
            pinned=estimated.pinned,
        )
        return footprint_from(spec, sources, devices)

    def _estimate_all(
        self, specs: Iterable[ModelSpec], views: Mapping[ModelId, ProgramView]
    ) -> list[tuple[Footprint | None, tuple[DeviceId, ...] | None]]:
        """Return the estimate of each model, and the GPUs that its launch names. Blocks."""
        with loop_goes_first():
            return [self._estimate(spec, views[spec.id]) for spec in specs]

    def _estimate(
        self, spec: ModelSpec, view: ProgramView
    ) -> tuple[Footprint | None, tuple[DeviceId, ...] | None]:
        """Return the estimate of a llama-server with a readable model, and the GPUs it names."""
        argv = command_line(spec, port=_ANY_PORT, host=BACKEND_HOST)
        own_env = environment(spec, port=_ANY_PORT, host=BACKEND_HOST)
        env = inherited(self._environ) | own_env
        pinned = pinned_devices(argv, env, view)
        if spec.path is None or not is_llama_server(argv[0]):
            return None, pinned
        flags = read_flags(argv, env)
        try:
            is_embedded = find_program(argv, path=spec.spawn.env.get("PATH")).is_embedded
            weights = read_weights(spec.path, self._arrays)
            mmproj = (
                read_weights(spec.mmproj, self._arrays)
                if spec.mmproj is not None and spec.mmproj in argv
                else None
            )
        except (GgufError, OSError, SpawnError):
            return None, pinned  # the start will say what is wrong with it
        if is_embedded:
            pinned = ()
        has_gpu = bool(view.devices) and pinned != ()
        return estimate(weights, flags, has_gpu=has_gpu, mmproj=mmproj), pinned
