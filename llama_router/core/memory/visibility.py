"""Variables and arguments by which a backend uses chosen GPUs, and those that it has itself. Pure.

Source: CUDA C++ programming guide, CUDA_VISIBLE_DEVICES; ROCm, "GPU isolation techniques"; Level
Zero specification, ZE_AFFINITY_MASK; llama.cpp, ``--device``, ``--tensor-split``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Final

import attrs

from ..config.kinds import is_llama_server
from .containers import container_of
from .devices import Device, DeviceId, DeviceKind
from .program_devices import NATIVE, ListedDevice, identified, listed_devices

#: The variable that names the visible devices of each kind.
_VARIABLES: Final = {
    DeviceKind.NVIDIA: "CUDA_VISIBLE_DEVICES",
    DeviceKind.AMD: "ROCR_VISIBLE_DEVICES",
    DeviceKind.INTEL: "ZE_AFFINITY_MASK",
    DeviceKind.SIMULATED: "SIMULATED_VISIBLE_DEVICES",
}

#: Lets Intel's GPUs be counted in the order of their addresses, in which their selectors are.
_INTEL_ORDER: Final = ("ZE_ENABLE_PCI_ID_DEVICE_ORDER", "1")

#: Variables that hide GPUs, and the interface of the programs that obey them, in the order in
#: which they are applied.
_READ: Final = (
    ("CUDA_VISIBLE_DEVICES", "CUDA"),
    ("ROCR_VISIBLE_DEVICES", "ROCm"),
    ("GPU_DEVICE_ORDINAL", "ROCm"),
    ("HIP_VISIBLE_DEVICES", "ROCm"),
    ("CUDA_VISIBLE_DEVICES", "ROCm"),
    ("GGML_VK_VISIBLE_DEVICES", "Vulkan"),
    ("ZE_AFFINITY_MASK", "SYCL"),
    ("ONEAPI_DEVICE_SELECTOR", "SYCL"),
    ("SIMULATED_VISIBLE_DEVICES", "Simulated"),
)

_DEVICE: Final = ("-dev", "--device")
_TENSOR_SPLIT: Final = ("-ts", "--tensor-split")
_SPLIT_MODE: Final = ("-sm", "--split-mode")
_MAIN_GPU: Final = ("-mg", "--main-gpu")
_GPU_LAYERS: Final = ("-ngl", "--gpu-layers", "--n-gpu-layers")


@attrs.frozen(kw_only=True)
class DeviceChoice:
    """What lets a backend use the chosen GPUs, and no others.

    Attributes:
        env: Variables to be added.
        argv: Arguments to be added.
        fault: Why it cannot be told, in a sentence for people; None if it can.
    """

    env: Mapping[str, str] = attrs.field(factory=dict[str, str])
    argv: tuple[str, ...] = ()
    fault: str | None = None


@attrs.frozen(kw_only=True)
class ProgramView:
    """The GPUs of the machine, as one program knows them.

    Attributes:
        devices: All GPUs of the machine.
        listed: What the program lists; None if it does not say, or is no llama-server.
    """

    devices: tuple[Device, ...]
    listed: tuple[ListedDevice, ...] | None

    @classmethod
    def of(cls, devices: Mapping[DeviceId, Device], lines: Sequence[str] | None) -> ProgramView:
        """Return the view of a program that lists *lines*, see `listed_devices`."""
        gpus = tuple(device for device in devices.values() if device.is_gpu)
        return cls(devices=gpus, listed=None if lines is None else listed_devices(lines))

    @property
    def order(self) -> dict[str, DeviceId]:
        """The GPUs by the program's names for them, in its order.

        Without a list, they are those of the vendors' own interfaces.
        """
        if self.listed is not None:
            return identified(self.listed, self.devices)
        found: dict[str, DeviceId] = {}
        for kind, interface in {**NATIVE, DeviceKind.SIMULATED: "Simulated"}.items():
            same = [device for device in self.devices if device.kind is kind]
            found |= {f"{interface}{number}": each.id for number, each in enumerate(same)}
        return found


def device_choice(
    chosen: Sequence[Device], view: ProgramView, shares: Mapping[DeviceId, int] | None = None
) -> DeviceChoice:
    """Return what makes a program use *chosen*, in this order. Nothing if none are chosen.

    Args:
        chosen: Some of the machine's GPUs.
        view: All of them, and the program's names.
        shares: The part of the model for each, in any unit; only for a llama-server that is
            split. None leaves that to it.
    """
    in_order = sorted(chosen, key=_place_of_intel)
    split: tuple[str, ...] = ()
    if shares is not None and len(in_order) > 1:
        parts = ",".join(str(shares.get(device.id, 0)) for device in in_order)
        split = ("--tensor-split", parts)
    interfaces = {each.interface for each in view.listed or ()}
    if view.listed is None:
        return DeviceChoice(env=_variables(in_order))
    # A variable hides the devices of its own interface only.
    if all(interfaces <= {NATIVE.get(device.kind)} for device in in_order):
        return DeviceChoice(env=_variables(in_order), argv=split if interfaces else ())
    if all(device.kind is DeviceKind.SIMULATED for device in in_order):
        return DeviceChoice(env=_variables(in_order), argv=split)
    return _by_name(in_order, view, interfaces, split)


def _place_of_intel(device: Device) -> int:
    """Return the place of an Intel GPU: its variable is a mask, in which order has no meaning."""
    is_place = device.kind is DeviceKind.INTEL and device.selector.isdecimal()
    return int(device.selector) if is_place else 0


def _variables(chosen: Sequence[Device]) -> dict[str, str]:
    """Return the variables that hide all GPUs but *chosen* from programs of their vendors."""
    env: dict[str, str] = {}
    for kind, variable in _VARIABLES.items():
        selectors = [device.selector for device in chosen if device.kind is kind]
        if kind is DeviceKind.SIMULATED:
            selectors = [device.id for device in chosen if device.kind is kind]
        if selectors and all(selectors):
            env[variable] = ",".join(selectors)
            env |= dict([_INTEL_ORDER]) if kind is DeviceKind.INTEL else {}
    return env


def _by_name(
    chosen: Sequence[Device],
    view: ProgramView,
    interfaces: AbstractSet[str],
    split: tuple[str, ...],
) -> DeviceChoice:
    """Return the choice for a program with several interfaces, or with Vulkan's."""
    names: list[str] = []
    native = [device for device in chosen if NATIVE.get(device.kind) in interfaces]
    for device in chosen:
        if device in native:
            # Its variable leaves the chosen ones of its kind, and they are counted anew.
            same = [each.id for each in native if each.kind is device.kind]
            names.append(f"{NATIVE[device.kind]}{same.index(device.id)}")
        elif found := [name for name, each in view.order.items() if each == device.id]:
            names.append(found[0])
        else:
            return DeviceChoice(
                fault=f"the program does not list {device.name or device.id} ({device.id}) among "
                "its devices, so it cannot be told to use it"
            )
    return DeviceChoice(env=_variables(native), argv=("--device", ",".join(names), *split))


def pinned_devices(
    argv: Sequence[str], env: Mapping[str, str], view: ProgramView
) -> tuple[DeviceId, ...] | None:
    """Return the GPUs that a launch chooses itself; None if it leaves the choice open.

    Empty if it uses host memory only. A launch in a container always chooses: `device_choice` does
    not reach into it.

    Args:
        argv: The command line, without what `device_choice` adds.
        env: The whole environment of the backend, likewise.
        view: All GPUs, and the program's names.
    """
    container = container_of(argv, env, view.devices)
    if container is not None:
        argv, env = container.argv, container.env
        view = ProgramView(devices=container.devices, listed=None)
    visible, is_pinned = _visible(env, view)
    is_pinned = is_pinned or container is not None
    if not _is_llama_server(argv):
        return tuple(visible.values()) if is_pinned else None
    if view.listed == () or _option(argv, env, _GPU_LAYERS, "LLAMA_ARG_N_GPU_LAYERS") == "0":
        return ()
    in_order = list(dict.fromkeys(visible.values()))
    if names := _option(argv, env, _DEVICE, "LLAMA_ARG_DEVICE"):
        in_order = _named(names, visible)
        is_pinned = True
    main_gpu = _option(argv, env, _MAIN_GPU, "LLAMA_ARG_MAIN_GPU")
    split = _option(argv, env, _TENSOR_SPLIT, "LLAMA_ARG_TENSOR_SPLIT")
    if _option(argv, env, _SPLIT_MODE, "LLAMA_ARG_SPLIT_MODE") == "none" and main_gpu is not None:
        return tuple(_at(main_gpu if main_gpu.isdecimal() else "0", in_order))
    if split:
        parts = split.replace("/", ",").split(",")
        return tuple(
            device for device, part in zip(in_order, parts, strict=False) if _number(part) > 0
        )
    return tuple(in_order) if is_pinned else None


def _visible(env: Mapping[str, str], view: ProgramView) -> tuple[dict[str, DeviceId], bool]:
    """Return the GPUs that variables leave visible, by the names that they have then.

    True beside them if a variable hides some.
    """
    order = view.order
    pinned: set[str] = set()
    for variable, interface in _READ:
        same = {name: device for name, device in order.items() if _interface(name) == interface}
        if variable not in env or not same:
            continue
        # HIP obeys CUDA's variable; a program for CUDA has nothing to do with AMD's GPUs.
        if (variable, interface) == ("CUDA_VISIBLE_DEVICES", "ROCm") and "CUDA" in pinned:
            continue
        by_selector = variable in _VARIABLES.values()
        selectors = {each.id: each.selector if by_selector else "" for each in view.devices}
        left = _selected(env[variable], list(same.values()), selectors)
        order = {name: device for name, device in order.items() if name not in same}
        order |= {f"{interface}{number}": device for number, device in enumerate(left)}
        pinned.add(interface)
    if view.listed is None and pinned:  # the program's interface is the one that is spoken of
        order = {name: device for name, device in order.items() if _interface(name) in pinned}
    return order, bool(pinned)


def _named(names: str, visible: Mapping[str, DeviceId]) -> list[DeviceId]:
    """Return the GPUs that ``--device`` names; by their numbers, if none of the names is known."""
    words = [name.strip().lower() for name in names.split(",")]
    by_name = {name.lower(): device for name, device in visible.items()}
    found = [by_name[word] for word in words if word in by_name]
    if not found and words != ["none"]:
        in_order = list(dict.fromkeys(visible.values()))
        numbers = [word[len(_interface(word)) :] for word in words]
        found = [device for number in numbers if number for device in _at(number, in_order)]
    return list(dict.fromkeys(found))


def _selected(
    text: str, devices: Sequence[DeviceId], selectors: Mapping[DeviceId, str]
) -> list[DeviceId]:
    """Return those of *devices* that the value of a variable names, by selector or place."""
    found: list[DeviceId] = []
    for word in text.rpartition(":")[2].split(","):
        wanted = word.strip().partition(".")[0]  # a part of a GPU is on that GPU
        if wanted == "*":
            return list(devices)
        named = [each for each in devices if _is_named(wanted, each, selectors[each].lower())]
        if not named and wanted.isdecimal():
            named = _at(wanted, devices)
        if not named:  # as the drivers do: what stands behind it does not count
            break
        found += [each for each in named[:1] if each not in found]
    return found


def _at(number: str, devices: Sequence[DeviceId]) -> list[DeviceId]:
    """Return the device at a place; none if there is no such place."""
    place = int(number) if len(number) < 10 else len(devices)
    return list(devices[place : place + 1])


def _is_named(word: str, device: DeviceId, selector: str) -> bool:
    """Return whether *word* is the selector of a device, the beginning of its UUID, or its name."""
    if not word or word.isdecimal():
        return bool(word) and word == selector
    return device == word or selector.startswith(word.lower())


def _interface(name: str) -> str:
    return name.rstrip("0123456789")


def _is_llama_server(argv: Sequence[str]) -> bool:
    return any(map(is_llama_server, argv)) or "llama_router.backends.embedded" in argv


def _option(
    argv: Sequence[str], env: Mapping[str, str], names: tuple[str, ...], variable: str
) -> str | None:
    """Return the value of an option of llama-server: the last one, else that of its variable."""
    value = env.get(variable)
    for word, following in pairwise(argv):
        if word in names:
            value = following
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
