"""Unit tests of the plan of a start: the options and variables that the router adds, and when."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from llama_router.backends.launch_plan import LaunchPlan, LoadReport, memory_for, plan_launch
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.memory.fit import TARGET, Fit
from llama_router.core.memory.footprint import Source
from llama_router.core.memory.learned import NOTHING, Learned

ASKED = "LLAMA_ARG_LOG_VERBOSITY"
HOST_MIB = memory_for({}).host_mib

FIT = Fit(
    n_ctx=4096, n_ctx_full=8192, need_mib=9, free_mib=HOST_MIB, total_mib=HOST_MIB,
    margin_mib=1024,
)  # fmt: skip
ON_GPU = Fit(
    n_ctx=4096, n_ctx_full=8192, n_gpu_layers=9, gpus=1, need_mib=9000, free_mib=8000,
    total_mib=24000, margin_mib=1024,
)  # fmt: skip
OWN: dict[str, Any] = {"spawn": {"command": ["/x/llama-server", "-m", "$path", "--port", "$port"]}}
OTHER: dict[str, Any] = {"spawn": {"command": ["/x/vllm", "serve", "$path", "--port", "$port"]}}


def plan_of(
    learned: Learned = NOTHING,
    gpus: tuple[int, ...] | None = None,
    slots_folder: str | None = None,
    **fields: Any,
) -> LaunchPlan:
    spec = parse_config({"models": {"a": {"path": "/a.gguf", **fields}}}).models[ModelId("a")]
    return plan_launch(
        spec,
        learned=learned,
        port=1,
        host="h",
        environ={},
        router_port=2,
        free_gpus_mib=gpus,
        slots_folder=slots_folder,
        marker="run.1",
    )


def loaded(fit: Fit | None = None) -> Learned:
    return Learned(load_s=1.0, fit=fit, widest=fit)


@pytest.mark.parametrize(
    ("plan", "options", "is_asked"),
    [
        (plan_of(), "", True),
        (plan_of(loaded(FIT)), "--ctx-size 4096 --fit off", False),
        (plan_of(loaded()), "", True),
        (plan_of(loaded(FIT), args=["-c", "512"]), "-c 512 --fit off", False),
        (plan_of(loaded(FIT), args=["--fit", "on"]), "--fit on", False),
        (plan_of(loaded(ON_GPU)), "", True),
        (plan_of(loaded(ON_GPU), (8000,)), "--ctx-size 4096 --n-gpu-layers 9 --fit off", False),
        (plan_of(loaded(ON_GPU), (20000,)), "", True),
        (plan_of(loaded(FIT), spawn={"env": {TARGET: "9000"}}), "", True),
        (plan_of(loaded(attrs.evolve(FIT, margin_mib=9000))), "", True),
        (plan_of(**OWN), "", True),
        (plan_of(loaded(FIT), **OWN), "", False),
        (plan_of(**OTHER), "", False),
        (plan_of(slots_folder="/s/a"), "--slot-save-path /s/a", True),
    ],
)
def test_what_the_router_adds(plan: LaunchPlan, options: str, is_asked: bool) -> None:  # noqa: FBT001 -- a column
    """What was chosen before, to the default command; and a question, once for each launch."""
    words = " ".join(plan.program.argv)
    behind = words.partition("--jinja")[2].strip()
    assert behind == options
    assert (plan.env.get(ASKED) == "4") is is_asked


def test_an_own_verbosity_is_kept() -> None:
    """What a user sets is what the backend gets."""
    assert plan_of(spawn={"env": {ASKED: "1"}}).env[ASKED] == "1"


def test_a_load_tells_what_it_took_and_chose() -> None:
    """Its output is read once; a later load keeps what the first one said."""
    report = LoadReport(plan_of())
    for line in (
        "common_params_fit_impl: projected to use 9 MiB of host memory vs. 90 MiB of total host",
        "common_params_fit_impl: context size reduced from 8192 to 4096 -> need 5 MiB less memory",
        "common_fit_params: successfully fit params to free device memory",
        "common_fit_params: fitting params to free memory took 1.00 seconds",
        "load_tensors:   CPU_Mapped model buffer size =   235.00 MiB",
        "llama_context: n_ctx                 = 4096",
    ):
        report.read(line)
    report.n_ctx_slot = 1024
    first = report.learned(load_s=2.0, at_s=5.0)
    assert first.reported is not None
    assert first.reported.source is Source.REPORTED
    assert first.reported.host_mib > 235
    assert (first.fit, first.n_ctx_slot) == (report.fit, 1024)
    later = LoadReport(plan_of(first)).learned(load_s=1.0, at_s=6.0)
    assert later.reported == first.reported


def test_the_gpus_that_a_program_can_see() -> None:
    """The variables of every vendor count, in any order."""
    env = {"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1", "PATH": "/"}
    assert memory_for(env).visible == "CUDA_VISIBLE_DEVICES=1 HIP_VISIBLE_DEVICES=0"
    assert memory_for({"ZE_AFFINITY_MASK": "0"}).visible == "ZE_AFFINITY_MASK=0"
