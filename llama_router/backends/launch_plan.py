"""The plan of one start: its command line and variables, and what an earlier load taught."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import attrs

from ..core.config.command import command_line, environment
from ..core.config.containers import ContainerCommand, container_command, container_name
from ..core.config.specs import ModelSpec
from ..core.memory.fit import (
    VERBOSITY,
    Fit,
    FitReader,
    FreeMemory,
    host_target_mib,
    is_fitted,
    is_squeezed,
    options_of,
    says_verbosity,
    unsqueezed_mib,
    would_repeat,
)
from ..core.memory.learned import Learned, after_load
from ..core.memory.llama_report import ReportReader
from ..core.prompt_cache.command import OPTION as SLOTS_OPTION
from . import child_protocol
from .environment import Program, find_program, inherited

#: Sets the model name of a llama-server. An ``--alias`` in its command has precedence.
ALIAS_VARIABLE: Final = "LLAMA_ARG_ALIAS"

#: Variables that choose the GPUs of a program end so, or are this one.
_VISIBLE_SUFFIX: Final = "_VISIBLE_DEVICES"
_VISIBLE: Final = "ZE_AFFINITY_MASK"


@attrs.frozen(kw_only=True)
class LaunchPlan:
    """What is run for one start.

    Attributes:
        spec: The settings of the model.
        learned: What is known of it.
        program: The command line, with the options of *fit*.
        env: The environment, without the markers of its process tree.
        fit: What an earlier fitting chose, if it is repeated by options.
        reads_fit: Whether llama.cpp fits the model, and is asked to say how.
        reads_report: Whether llama.cpp is asked to say what it takes.
        raises_verbosity: Whether it says more in its log only because of that.
        visible: The setting of the GPUs that the program can see.
        marker: Unique name of the run.
        container: The value of ``$container``.
        runs: The container that it runs; None for any other program.
    """

    spec: ModelSpec
    learned: Learned
    program: Program
    env: Mapping[str, str]
    fit: Fit | None
    reads_fit: bool
    reads_report: bool
    raises_verbosity: bool
    visible: str
    marker: str
    container: str
    runs: ContainerCommand | None


def plan_launch(  # noqa: PLR0913 -- each is one independent fact about the start
    spec: ModelSpec,
    *,
    learned: Learned,
    port: int,
    host: str,
    environ: Mapping[str, str],
    router_port: int,
    free_gpus_mib: tuple[int, ...] | None,
    marker: str,
    slots_folder: str | None = None,
) -> LaunchPlan:
    """Return the plan of a start of *spec*'s backend on *port*.

    Args:
        spec: The settings of the model.
        learned: See `LaunchPlan`.
        port: The port allotted to the backend.
        host: The address that it listens on.
        environ: The router's own environment.
        router_port: The router's port, for llama-server's child protocol.
        free_gpus_mib: What is free on each GPU, in MiB; None if that is not known.
        marker: Unique name of the run.
        slots_folder: Where its slots are saved; None if they are not.

    Raises:
        SpawnError: if there is no such program.
    """
    container = container_name(spec.id, marker)
    env = inherited(environ) | environment(spec, port=port, host=host, container=container)
    memory = memory_for(env, free_gpus_mib)
    fit = fit_to_repeat(spec, learned, memory)
    options = () if fit is None else options_of(fit, spec)
    if slots_folder is not None:
        options = (*options, SLOTS_OPTION, slots_folder)
    program = find_program(
        (*command_line(spec, port=port, host=host, container=container), *options),
        path=spec.spawn.env.get("PATH"),
    )
    reads_fit = reads_report = raises_verbosity = False
    if program.speaks_child_protocol:
        env[child_protocol.ENV_VARIABLE] = str(router_port)
        # Responses name the model as the router does: llama.cpp's UI uses that name.
        env.setdefault(ALIAS_VARIABLE, spec.id)
        reads_fit = fit is None and is_fitted(spec)
        # Once for each launch: some programs do not say it.
        reads_report = reads_fit or learned.load_s is None
        if reads_report:
            raises_verbosity = not says_verbosity(program.argv, env)
            env.setdefault(*VERBOSITY)
    return LaunchPlan(
        spec=spec,
        learned=learned,
        program=program,
        env=env,
        fit=fit,
        reads_fit=reads_fit,
        reads_report=reads_report,
        raises_verbosity=raises_verbosity,
        visible=memory.visible,
        marker=marker,
        container=container,
        runs=container_command(program.argv),
    )


def fit_to_repeat(spec: ModelSpec, learned: Learned, memory: FreeMemory) -> Fit | None:
    """Return the choice of an earlier fitting that the next start of *spec* repeats by options."""
    fit = learned.fit
    memory = attrs.evolve(memory, host_target_mib=host_target_mib(spec))
    if fit is None or not is_fitted(spec) or not would_repeat(fit, memory):
        return None
    return fit


def memory_for(env: Mapping[str, str], free_gpus_mib: tuple[int, ...] | None = None) -> FreeMemory:
    """Return the memory that a program with the environment *env* finds.

    Args:
        env: Its environment. Some variables choose the GPUs that it can see.
        free_gpus_mib: See `plan_launch`.
    """
    chosen = sorted(
        f"{name}={value}"
        for name, value in env.items()
        if name.endswith(_VISIBLE_SUFFIX) or name == _VISIBLE
    )
    return FreeMemory(host_mib=all_host_mib(), gpus_mib=free_gpus_mib, visible=" ".join(chosen))


def all_host_mib() -> int:
    """Return the memory of the machine, as llama.cpp counts it."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20


class LoadReport:
    """What a load tells about itself in its output."""

    def __init__(self, plan: LaunchPlan) -> None:
        self._plan = plan
        self._reader = FitReader() if plan.reads_fit else None
        self._report = ReportReader() if plan.reads_report else None
        self.n_ctx_slot: int | None = None

    def read(self, line: str) -> None:
        """Read one line of output."""
        if self._reader is not None:
            self._reader.read(line)
        if self._report is not None:
            self._report.feed(line)

    @property
    def fit(self) -> Fit | None:
        """The choice of the fitting, in this load or the one that it repeats; None without one."""
        plan = self._plan
        if self._reader is None:
            return plan.fit
        return self._reader.fit(visible=plan.visible)

    @property
    def squeezed(self) -> bool:
        """Whether the model has less because something else held memory."""
        return self.fit is not None and is_squeezed(self.fit, self._plan.learned.widest)

    @property
    def unsqueezed_mib(self) -> int:
        """The free memory with which it would have all; 0 if it is not squeezed."""
        if self.fit is None or not self.squeezed:
            return 0
        return unsqueezed_mib(self.fit, self._plan.learned.widest)

    def learned(self, *, load_s: float, at_s: float) -> Learned:
        """Return what is known of the launch after this load.

        Args:
            load_s: How long it took, in seconds.
            at_s: Its end, in seconds since the epoch.
        """
        # What a squeezed model takes is less than what it is to have the next time.
        reads = self._report is not None and not self.squeezed
        reported = self._report.report() if self._report is not None and reads else None
        return after_load(
            self._plan.learned,
            load_s=load_s,
            at_s=at_s,
            fit=self.fit,
            reported=None if reported is None else reported.footprint,
            n_ctx_slot=self.n_ctx_slot,
        )
