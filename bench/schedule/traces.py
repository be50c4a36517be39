"""Traces: devices, models, the requests of clients, and incidents. Pure.

A trace is fixed before the simulation begins, so every rule gets the same one. In a closed loop,
a client sends its next request some time after the end of the one before; how early that is
depends on the rule.
"""

from __future__ import annotations

import math

import attrs


@attrs.frozen(kw_only=True)
class Model:
    """A model, as the simulated machine runs it.

    Attributes:
        name: Its name.
        size_mib: Its file, and the memory that it takes of GPUs.
        split_mib: What each further GPU of a split costs in addition.
        slots: Requests that its backend serves at once; others wait inside of it.
        crashes_after_s: Seconds from its start to its end, if it never becomes ready.
    """

    name: str
    size_mib: int
    split_mib: int = 500
    slots: int = 1
    crashes_after_s: float | None = None


@attrs.frozen(kw_only=True)
class Machine:
    """The simulated machine.

    Attributes:
        gpus: Budgets of its GPUs, in MiB.
        disk_mib_s: Speed of a load from the disk.
        cache_mib_s: Speed of a load from the page cache.
        cache_mib: The page cache: it has the files that were loaded last.
        begin_s: Time of a load that does not depend on the size, in seconds.
        stop_s: Time from the order to stop to the exit of a process, in seconds.
    """

    gpus: tuple[int, ...]
    disk_mib_s: float = 2000.0
    cache_mib_s: float = 6000.0
    cache_mib: int = 32_000
    begin_s: float = 1.0
    stop_s: float = 0.3


@attrs.frozen(kw_only=True)
class Step:
    """One request of a client.

    Attributes:
        model: The name of the model.
        service_s: Seconds for which a slot is busy with it.
        pause_s: Seconds between the end of the client's request before it, and its arrival.
        aside: The client does not wait for its end: the pause of the next request begins when
            that of this one did.
        leaves_after_s: Seconds after its arrival at which the client disconnects; infinite if it
            does not.
    """

    model: str
    service_s: float
    pause_s: float = 0.0
    leaves_after_s: float = math.inf
    aside: bool = False


@attrs.frozen(kw_only=True)
class Client:
    """A client, and all of its requests.

    Attributes:
        name: Its name.
        steps: Its requests.
        begins_s: Time from which its first pause counts, in seconds.
        open_loop: A pause counts from the arrival of the request before, and not from its end.
        may_fail: Its requests cannot succeed, because their model never becomes ready.
    """

    name: str
    steps: tuple[Step, ...]
    begins_s: float = 0.0
    open_loop: bool = False
    may_fail: bool = False


@attrs.frozen
class Taken:
    """Another program takes memory, as far as it is free, or gives it back.

    Attributes:
        at_s: When, in seconds.
        gpu: The number of the GPU.
        mib: What it wants to hold from now on.
    """

    at_s: float
    gpu: int
    mib: int


@attrs.frozen
class Reload:
    """The configuration is reloaded.

    Attributes:
        at_s: When, in seconds.
        changed: The model with other settings than before.
    """

    at_s: float
    changed: str


@attrs.frozen(kw_only=True)
class Trace:
    """All that happens to a rule in one simulation.

    Attributes:
        machine: The machine.
        models: The models, in the order in which a person would write them down.
        clients: The clients.
        incidents: What else happens.
    """

    machine: Machine
    models: tuple[Model, ...]
    clients: tuple[Client, ...]
    incidents: tuple[Taken | Reload, ...] = ()
