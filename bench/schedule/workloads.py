"""The workloads: traces that depend on a seed and on the number of GPUs only. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import attrs

from .traces import Client, Machine, Model, Reload, Step, Taken, Trace

#: Budget of each GPU, in MiB.
GPU_MIB: Final = 24_000

#: Share of requests whose client disconnects in the workload with disconnects.
_LEAVING: Final = 0.2


@attrs.frozen
class Workload:
    """A workload.

    Attributes:
        name: Its name on the command line.
        title: What it consists of.
        trace: Returns its trace for a number of GPUs, and of rounds of its clients.
        has_goal: The goals for swaps, waits and fairness count for it.
        settings: What ``[router]`` says, defaults apart.
    """

    name: str
    title: str
    trace: Callable[[int, int, random.Random], Trace]
    has_goal: bool = False
    settings: Mapping[str, int] = attrs.field(factory=dict[str, int])


def _machine(gpus: int) -> Machine:
    return Machine(gpus=(GPU_MIB,) * gpus)


def _agent(name: str, model: str, count: int, chance: random.Random) -> Client:
    """Return an agent: its next request comes soon after the end of the one before."""
    steps = tuple(
        Step(model=model, service_s=chance.uniform(2, 6), pause_s=chance.uniform(0.3, 2.0))
        for _ in range(count)
    )
    return Client(name=name, steps=steps, begins_s=chance.uniform(0, 2))


def _person(
    name: str, model: str, count: int, chance: random.Random, *, title: str | None = None
) -> Client:
    """Return a person who reads each answer, perhaps with a request for a title after each."""
    steps: list[Step] = []
    for _ in range(count):
        steps.append(
            Step(model=model, service_s=chance.uniform(4, 12), pause_s=chance.uniform(8, 30))
        )
        if title is not None:
            service_s = chance.uniform(0.5, 1.0)
            steps.append(Step(model=title, service_s=service_s, pause_s=0.05, aside=True))
    return Client(name=name, steps=tuple(steps), begins_s=chance.uniform(0, 5))


def _many(name: str, model: str, count: int, chance: random.Random, every_s: float) -> Client:
    """Return a client that sends short requests in an open loop, on average one each *every_s*."""
    steps = tuple(
        Step(
            model=model,
            service_s=chance.uniform(0.05, 0.3),
            pause_s=chance.expovariate(1 / every_s),
        )
        for _ in range(count)
    )
    return Client(name=name, steps=steps, begins_s=chance.uniform(0, 2), open_loop=True)


def _alternating(gpus: int, rounds: int, chance: random.Random) -> Trace:
    names = [f"agent-{number}" for number in range(gpus + 1)]
    return Trace(
        machine=_machine(gpus),
        models=tuple(Model(name=f"m-{n}", size_mib=chance.randint(13_000, 18_000)) for n in names),
        clients=tuple(_agent(name, f"m-{name}", 3 * rounds, chance) for name in names),
    )


def _titles(gpus: int, rounds: int, chance: random.Random) -> Trace:
    chats = tuple(Model(name=f"chat-{number}", size_mib=18_000, slots=2) for number in range(gpus))
    return Trace(
        machine=_machine(gpus),
        models=(*chats, Model(name="title", size_mib=8_000)),
        clients=tuple(
            _person(f"person-{chat.name}-{each}", chat.name, rounds, chance, title="title")
            for chat in chats
            for each in range(3)
        ),
    )


def _mixed(gpus: int, rounds: int, chance: random.Random) -> Trace:
    models = [Model(name="embedding", size_mib=2_000, slots=4)]
    clients = [_many("indexer", "embedding", 4 * rounds, chance, every_s=4.0)]
    for number in range(gpus):
        models += [
            Model(name=f"chat-{number}", size_mib=12_000, slots=2),
            Model(name=f"agent-{number}", size_mib=16_000, slots=2),
            Model(name=f"ocr-{number}", size_mib=9_000),
        ]
        clients += [
            _person(f"person-{number}", f"chat-{number}", rounds, chance),
            _agent(f"agent-{number}", f"agent-{number}", 3 * rounds, chance),
            _person(f"ocr-{number}", f"ocr-{number}", rounds // 2, chance),
        ]
    return Trace(machine=_machine(gpus), models=tuple(models), clients=tuple(clients))


def _burst(gpus: int, rounds: int, chance: random.Random) -> Trace:
    names = [f"person-{number}" for number in range(gpus)]
    chats = tuple(Model(name=f"chat-{name}", size_mib=18_000) for name in names)
    burst = tuple(Step(model="embedding", service_s=chance.uniform(0.1, 0.3)) for _ in range(300))
    return Trace(
        machine=_machine(gpus),
        models=(*chats, Model(name="embedding", size_mib=7_000, slots=4)),
        clients=(
            *(_person(name, f"chat-{name}", rounds, chance) for name in names),
            Client(name="indexer", steps=burst, begins_s=60.0, open_loop=True),
        ),
    )


def _flood(gpus: int, rounds: int, chance: random.Random) -> Trace:
    chats = tuple(Model(name=f"chat-{number}", size_mib=18_000, slots=2) for number in range(gpus))
    clients: list[Client] = []
    for number, chat in enumerate(chats):
        steps = tuple(
            Step(model=chat.name, service_s=chance.uniform(2, 6)) for _ in range(10 * rounds)
        )
        clients += [
            _person(f"person-{number}", chat.name, rounds, chance),
            Client(name=f"agent-{number}", steps=steps, begins_s=60.0, open_loop=True),
        ]
    return Trace(machine=_machine(gpus), models=chats, clients=tuple(clients))


def _disconnects(gpus: int, rounds: int, chance: random.Random) -> Trace:
    def with_leaving(steps: Sequence[Step]) -> Iterator[Step]:
        for step in steps:
            leaves = chance.random() < _LEAVING
            after_s = chance.uniform(0.2, 10.0) if leaves else math.inf
            yield attrs.evolve(step, leaves_after_s=after_s)

    trace = _mixed(gpus, rounds, chance)
    clients = (attrs.evolve(c, steps=tuple(with_leaving(c.steps))) for c in trace.clients)
    return attrs.evolve(trace, clients=tuple(clients))


def _crash_loop(gpus: int, rounds: int, chance: random.Random) -> Trace:
    trace = _alternating(gpus, rounds, chance)
    broken = Model(name="broken", size_mib=8_000, crashes_after_s=1.5)
    steps = tuple(Step(model="broken", service_s=1.0, pause_s=2.0) for _ in range(rounds))
    stubborn = Client(name="stubborn", steps=steps, begins_s=10.0, may_fail=True)
    return attrs.evolve(trace, models=(*trace.models, broken), clients=(*trace.clients, stubborn))


def _thief(gpus: int, rounds: int, chance: random.Random) -> Trace:
    names = [f"{kind}-{number}" for number in range(gpus) for kind in ("a", "b", "c")]
    incidents = [
        Taken(at_s, gpu, mib)
        for gpu in range(gpus)
        for number in range(rounds)
        for at_s, mib in (
            (20.0 + 60 * number + 7 * gpu, 9_000),
            (50.0 + 60 * number + 7 * gpu, 0),
        )
    ]
    return Trace(
        machine=_machine(gpus),
        models=tuple(Model(name=f"m-{n}", size_mib=chance.randint(7_000, 9_000)) for n in names),
        clients=tuple(
            _agent(name, f"m-{name}", 2 * rounds, chance)
            if name.startswith("a")
            else _person(name, f"m-{name}", rounds, chance)
            for name in names
        ),
        incidents=tuple(incidents),
    )


def _double_edits(gpus: int, rounds: int, chance: random.Random) -> Trace:
    names = [f"agent-{number}" for number in range(gpus + 1)]
    clients = []
    for name in names:
        steps: list[Step] = []
        for _ in range(rounds):
            steps += [
                Step(
                    model="planner", service_s=chance.uniform(4, 8), pause_s=chance.uniform(0.3, 2)
                ),
                *(
                    Step(model="editor", service_s=chance.uniform(1, 3), pause_s=0.2)
                    for _ in range(2)
                ),
            ]
        clients.append(Client(name=name, steps=tuple(steps), begins_s=chance.uniform(0, 2)))
    incidents = [
        Reload(at_s + after_s, changed)
        for at_s in (40.0, 120.0)
        for after_s, changed in ((0.0, "planner"), (0.2, "editor"))
    ]
    share = 15_000 if gpus == 1 else 45_000
    return Trace(
        machine=_machine(gpus),
        models=(
            Model(name="planner", size_mib=share, slots=2),
            Model(name="editor", size_mib=share - 4_000, slots=2),
        ),
        clients=tuple(clients),
        incidents=tuple(incidents),
    )


WORKLOADS: Final = (
    Workload("alternating", "agents, one more than GPUs, each with a model", _alternating, True),
    Workload(
        "titles",
        "three people for each chat model, one per GPU; a title by another model after each answer",
        _titles,
        True,
    ),
    Workload("mixed", "for each GPU chat, agent and OCR; an indexer", _mixed, True),
    Workload(
        "burst",
        "300 embeddings at once beside a chat for each GPU",
        _burst,
        # By default the 257th request in a queue is refused.
        settings={"max_queued": 300},
    ),
    Workload("flood", "an agent that sends all its requests at once beside a person", _flood),
    Workload("disconnects", "as mixed; 20 % of the clients disconnect", _disconnects),
    Workload("crash-loop", "as alternating; a client insists on a model that crashes", _crash_loop),
    Workload("thief", "another program takes memory and gives it back", _thief),
    Workload(
        "double-edits", "agents with a planner and an editor; two reloads in a row", _double_edits
    ),
)


def trace_of(workload: Workload, *, gpus: int, rounds: int, seed: int) -> Trace:
    """Return the trace of a workload."""
    return workload.trace(gpus, rounds, random.Random(f"{workload.name} {gpus} {seed}"))
