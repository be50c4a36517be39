"""The GPUs that a command for a container runtime gives to the container. Pure.

The variables of the router's backends end at the runtime, so such a launch chooses by itself.

Source: docker run, ``--gpus``, ``--device``, ``--env``; NVIDIA container toolkit,
NVIDIA_VISIBLE_DEVICES and CDI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs

from ..config.containers import runs_container
from .devices import Device, DeviceId, DeviceKind

#: A machine has fewer GPUs than the largest number of so many digits.
_MOST_DIGITS: Final = 9

#: What begins the name of one of NVIDIA's devices in CDI.
_CDI: Final = "nvidia.com/gpu="

#: Devices by which AMD's and Intel's GPUs are used.
_DRM: Final = ("/dev/dri", "/dev/kfd")


@attrs.frozen(kw_only=True)
class Container:
    """What a container gets.

    Attributes:
        argv: The command line without the options of the runtime that are in the other fields.
        env: Its variables.
        devices: The GPUs that it is given.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    devices: tuple[Device, ...]


def container_of(
    argv: Sequence[str], env: Mapping[str, str], devices: Sequence[Device]
) -> Container | None:
    """Return the container that a command line starts; None if it starts none.

    Args:
        argv: The command line.
        env: The environment of the runtime, from which variables can be passed on.
        devices: All GPUs of the machine.
    """
    if not runs_container(argv):
        return None
    inner, options = _taken_apart(argv)
    inside: dict[str, str] = {}
    given: dict[DeviceId, Device] = {}
    for option, value in options:
        if option in {"-e", "--env"}:
            name, is_set, text = value.partition("=")
            if is_set or name in env:
                inside[name] = text if is_set else env[name]
        elif option == "--gpus":
            given |= _nvidia(_gpus(value.strip("\"'"), len(devices)), devices)
        elif value.startswith(_CDI):
            given |= _nvidia(value.removeprefix(_CDI), devices)
        elif value.startswith(_DRM):
            kinds = {DeviceKind.AMD, DeviceKind.INTEL}
            given |= {each.id: each for each in devices if each.kind in kinds}
    given |= _nvidia(inside.get("NVIDIA_VISIBLE_DEVICES", ""), devices)
    in_order = tuple(device for device in devices if device.id in given)
    return Container(argv=tuple(inner), env=inside, devices=in_order)


def _taken_apart(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the words that are no such options, and the options with their values."""
    inner: list[str] = []
    options: list[tuple[str, str]] = []
    words: Iterator[str] = iter(argv)
    for word in words:
        option, has_value, value = word.partition("=")
        if word in {"-e", "--env", "--gpus"}:
            options.append((word, next(words, "")))
        elif has_value and option in {"--env", "--gpus"}:
            options.append((option, value))
        elif option == "--device":
            value = value if has_value else next(words, "")
            if value.startswith((*_DRM, _CDI)):
                options.append((option, value))
            else:  # llama-server's own
                inner += [option, value]
        else:
            inner.append(word)
    return inner, options


def _gpus(value: str, most: int) -> str:
    """Return the names that ``--gpus`` means; a number of GPUs means the first ones."""
    if value.isdecimal():
        count = min(int(value[:_MOST_DIGITS]), most)
        return ",".join(map(str, range(count)))
    return value.removeprefix("device=")


def _nvidia(names: str, devices: Sequence[Device]) -> dict[DeviceId, Device]:
    """Return NVIDIA's GPUs with *names*: places or UUIDs, or ``all``."""
    gpus = [device for device in devices if device.kind is DeviceKind.NVIDIA]
    if names == "all":
        return {each.id: each for each in gpus}
    wanted = [name.strip().lower() for name in names.split(",") if name.strip()]
    uuids = tuple(name for name in wanted if name.startswith("gpu-"))
    return {
        each.id: each
        for place, each in enumerate(gpus)
        if str(place) in wanted or each.selector.lower().startswith(uuids)
    }
