"""The lines of llama-server's log that only its report of memory adds."""

from __future__ import annotations

import pytest

from llama_router.core.memory.fit import says_verbosity
from llama_router.core.memory.report_lines import LEFT_OUT, ReportLines

#: What llama-server says at its own verbosity, too.
USUAL = """\
0.00.002.022 I srv          init: initializing ...
0.00.003.359 I srv          init: build_info: b0-unknown
0.00.004.636 W srv          init: security: no API key is set and CORS allows all origins
0.00.007.800 I srv    load_model: loading model '/models/m.gguf'
0.01.792.605 I srv    load_model: initializing, n_slots = 4, n_ctx_slot = 2048, kv_unified = 'true'
0.01.833.110 I srv          init: listening on http://127.0.0.1:51195
0.08.597.296 I slot get_availabl: id  3 | task -1 | selected slot by LRU, t_last = -1
0.08.601.065 I slot launch_slot_: id  3 | task 0 | processing task, is_child = 0
0.08.602.060 I slot print_timing: id  3 | task 0 |       total time =       0.92 ms /    26 tokens
0.08.605.720 I slot      release: id  3 | task 0 | stop processing: n_tokens = 25, truncated = 0
0.09.000.000 E llama_model_load: error loading model: unknown architecture""".splitlines()

#: What it says at a verbosity of 4 only.
ADDED = """\
0.00.002.389 I srv          init: n_parallel is set to auto, using n_parallel = 4
0.00.029.803 I srv    load_model: local path '/models/m.gguf'
0.00.057.883 I common_memory_breakdown_print: | memory breakdown [MiB] | total   free    self
0.00.058.374 I llama_model_loader: - kv   1:                               general.type str = model
0.00.058.595 D print_info: file type   = all F32
0.08.667.106 I srv  update_slots: all slots are idle
0.08.667.181 I slot get_availabl: id  0 | task -1 |  - skipping, slot is empty
0.08.667.391 I slot launch_slot_: id  3 | task -1 | sampler params:
\trepeat_last_n = 64, repeat_penalty = 1.000, frequency_penalty = 0.000""".splitlines()


def test_only_what_the_report_adds_is_left_out() -> None:
    """A line without a time belongs to the one before it; how many there were is known."""
    lines = ReportLines()
    assert [line for line in ADDED if not lines.has(line)] == []
    assert lines.count == len(ADDED)
    notes: list[str] = []
    lines.note_in(notes.append)
    assert notes == [LEFT_OUT]


def test_the_usual_lines_stay() -> None:
    """All of them, and what follows one of them."""
    lines = ReportLines()
    assert not any(map(lines.has, [*USUAL, "  more of it"]))


def test_the_output_of_other_programs_is_whole() -> None:
    """It has other lines, also at their beginning; and so is that at the usual verbosity."""
    assert not any(map(ReportLines(expected=False).has, ADDED))
    lines = ReportLines()
    assert not any(map(lines.has, ["INFO: loading", "llama_model_loader: - kv 0: x", "\tmore"]))
    assert lines.count == 0


@pytest.mark.parametrize(
    ("argv", "env", "said"),
    [
        (["llama-server", "--model", "m"], {}, False),
        (["llama-server", "-lv", "5"], {}, True),
        (["llama-server", "--verbosity=2"], {}, True),
        (["llama-server", "--verbose"], {}, True),
        (["llama-server"], {"LLAMA_ARG_LOG_VERBOSITY": "4"}, True),
    ],
)
def test_a_verbosity_of_the_users_own(argv: list[str], env: dict[str, str], *, said: bool) -> None:
    """Nothing is left out then."""
    assert says_verbosity(argv, env) is said
