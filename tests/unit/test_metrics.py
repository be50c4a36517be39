"""The text of the metrics; prometheus_client's parser is the judge of what is valid."""

from __future__ import annotations

import subprocess
from shutil import which

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse

from llama_router.control.metrics import request_figures
from llama_router.control.metrics.backend_text import MAX_SAMPLES, merge
from llama_router.control.metrics.exposition import (
    Family,
    Histogram,
    labels,
    number,
    samples,
)
from llama_router.control.metrics.request_figures import (
    FAMILIES,
    MAX_LABELS,
    OTHER,
    UNKNOWN,
    RequestFigures,
)
from llama_router.core.apis.usage import Usage
from llama_router.dispatch.request_log import Outcome, RequestLog
from llama_router.errors.admission import UnknownModelError

GAUGE = Family("x_bytes", "gauge", "A gauge.")


def values(text: str) -> dict[tuple[str, ...], float]:
    """Return the samples of *text* by name and labels, the latter in the order of their names."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


@given(st.text())
def test_any_text_can_be_a_label(text: str) -> None:
    """Quotes, backslashes, newlines, half characters: the page stays valid."""
    page = samples(GAUGE, [(labels(model=text), 1)])
    (seen,) = values(page)
    assert seen[1] == text.encode("utf-8", "replace").decode()


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_are_said_exactly(value: float) -> None:
    """No digit is lost."""
    assert float(number(value)) == float(value)


def test_a_histogram_counts_what_is_at_most_its_bounds() -> None:
    """Buckets are cumulative, and the last one has everything."""
    histogram = Histogram((0.1, 1))
    for value in (0.05, 0.1, 0.5, 3):
        histogram.observe(value)
    family = Family("x_seconds", "histogram", "A histogram.")
    found = values(family.head + histogram.lines("x_seconds", labels(model="a")))
    assert found == {
        ("x_seconds_bucket", "0.1", "a"): 2,
        ("x_seconds_bucket", "1", "a"): 3,
        ("x_seconds_bucket", "+Inf", "a"): 4,
        ("x_seconds_sum", "a"): 3.65,
        ("x_seconds_count", "a"): 4,
    }


def ended(
    model: str | None = "a", outcome: Outcome = Outcome.OK, key: str | None = None
) -> RequestLog:
    """Return the record of a stream that took 8 s."""
    record = RequestLog("POST", "/v1/chat/completions", began_s=1.0)
    record.model, record.outcome, record.key, record.streamed = model, outcome, key, True
    record.usage, record.sent_bytes = Usage(10, 21), 500
    record.granted_s, record.queue_s, record.load_s, record.ttft_s = 4.0, 1.0, 2.0, 4.0
    record.first_body_s, record.ended_s = 5.0, 9.0
    return record


def page_of(figures: RequestFigures) -> str:
    """Return the page that *figures* makes."""
    columns = zip(*(model.texts() for model in figures.models()), strict=True)
    return "".join(
        family.head + "".join(column) for family, column in zip(FAMILIES, columns, strict=True)
    )


def test_requests_are_counted_by_model_outcome_and_key() -> None:
    """Their tokens, bytes and times by model."""
    figures = RequestFigures(lambda _: True)
    figures.add([ended(), ended(key="alice"), ended(key="alice"), ended("b", Outcome.CUT)])
    found = values(page_of(figures))
    requests = {k[1:]: v for k, v in found.items() if k[0] == "llama_router_requests_total"}
    assert requests == {("", "a", "ok"): 1, ("alice", "a", "ok"): 2, ("", "b", "cut"): 1}
    assert found["llama_router_prompt_tokens_total", "a"] == 30
    assert found["llama_router_completion_tokens_total", "a"] == 63
    assert found["llama_router_response_bytes_total", "b"] == 500
    assert found["llama_router_request_queue_seconds_sum", "a"] == 3
    assert found["llama_router_request_load_seconds_sum", "a"] == 6
    assert found["llama_router_time_to_first_token_seconds_sum", "a"] == 12
    assert found["llama_router_request_duration_seconds_sum", "a"] == 24
    assert found["llama_router_time_per_output_token_seconds_sum", "b"] == 0.2


def test_a_refused_request_has_no_duration() -> None:
    """A refusal in no time would make every median look good."""
    record = ended(outcome=Outcome.REFUSED)
    record.code = UnknownModelError.code
    figures = RequestFigures(lambda _: True)
    figures.add([record])
    found = values(page_of(figures))
    assert found["llama_router_request_errors_total", "model_not_found", "a"] == 1
    assert found["llama_router_request_duration_seconds_count", "a"] == 0


def test_names_that_clients_make_up_are_counted_together() -> None:
    """So are models beyond the limit, keys and codes: nobody can fill the page."""
    figures = RequestFigures(lambda name: name.startswith("m"))
    figures.add([ended(f"invented-{number}") for number in range(50)])
    figures.add([ended(None)])
    figures.add([ended(f"m{number}") for number in range(request_figures.MAX_MODELS + 5)])
    figures.add([ended("m1", key=f"key-{number}") for number in range(2 * MAX_LABELS)])
    found = values(page_of(figures))
    name = "llama_router_requests_total"
    assert found[name, "", UNKNOWN, "ok"] == 51
    assert found[name, "", OTHER, "ok"] == 6
    assert found[name, OTHER, "m1", "ok"] == MAX_LABELS + 1
    assert len(list(figures.models())) == request_figures.MAX_MODELS + 1


@pytest.mark.skipif(which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_the_families_of_requests_are_named_as_they_should_be() -> None:
    """Promtool has nothing to complain about."""
    figures = RequestFigures(lambda _: True)
    figures.add([ended(), ended("b", Outcome.REFUSED)])
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=page_of(figures).encode(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# -- pages of backends ------------------------------------------------------------------------

LLAMA = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 12
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 0
"""


def merged(*pages: str) -> str:
    """Return *pages*, merged; their models are m0, m1 and so on."""
    return "".join(merge((f"m{number}", page) for number, page in enumerate(pages)))


def test_families_of_several_backends_are_there_once() -> None:
    """Each with the samples of all of them, which have a model."""
    page = merged(LLAMA, LLAMA.replace("12", "30"))
    assert page.count("# TYPE") == 2
    assert values(page) == {
        ("llamacpp:prompt_tokens_total", "m0"): 12,
        ("llamacpp:prompt_tokens_total", "m1"): 30,
        ("llamacpp:requests_processing", "m0"): 0,
        ("llamacpp:requests_processing", "m1"): 0,
    }


def test_a_histogram_stays_together() -> None:
    """Its samples have other names than its family."""
    page = merged(
        '# TYPE t_seconds histogram\nt_seconds_bucket{le="1"} 2\nt_seconds_bucket{le="+Inf"} 3\n'
        "t_seconds_sum 4.5\nt_seconds_count 3\n"
    )
    (family,) = parse(page)
    assert (family.type, len(family.samples)) == ("histogram", 4)


def test_a_label_of_the_backend_that_is_called_model_is_renamed() -> None:
    """VLLM has one, model_name aside; both stay readable."""
    assert merged('x{model="own",a="b"} 1') == (
        '# TYPE x untyped\nx{model="m0",exported_model="own",a="b"} 1\n'
    )


def test_a_backend_that_disagrees_about_a_type_is_left_out() -> None:
    """A family has one type."""
    page = merged("# TYPE x gauge\nx 1\n", "# TYPE x counter\nx 2\n", "x 3\n")
    assert page == '# TYPE x gauge\nx{model="m0"} 1\n'


@pytest.mark.parametrize(
    "line",
    [
        'llama_router_requests_total{key="x"} 9',
        "process_cpu_seconds_total 1",
        "x",
        "x 1 2 3",
        "x one",
        'x{a="b} 1',
        'x{a="b",a="c"} 1',
        "x{a=b} 1",
        'x{a="\\x"} 1',
        "<html>",
        "9x 1",
        "x1",
        "",
    ],
)
def test_what_is_not_valid_is_left_out(line: str) -> None:
    """The rest of the page is not lost, and families of the router cannot be forged."""
    assert values(merged(f"{line}\ny 2\n{line}")) == {("y", "m0"): 2}


def test_a_sample_that_comes_twice_counts_once() -> None:
    """Prometheus refuses a page with two of them."""
    assert merged("x 1\nx 2\n") == '# TYPE x untyped\nx{model="m0"} 1\n'


def test_a_page_without_end_is_cut() -> None:
    """The samples of one backend are limited."""
    page = "".join(f'x{{n="{number}"}} 1\n' for number in range(MAX_SAMPLES + 10))
    assert merged(page).count("\n") == MAX_SAMPLES + 1


@given(
    st.lists(
        st.one_of(
            st.text(alphabet='x1 {}=",\\\n#_+eNaInf', max_size=40),
            st.sampled_from(
                ['x{a="b"} 1', "# TYPE x counter", "# HELP x \\q \\n", "x NaN", "x_sum 1", "x 1"]
            ),
        )
    )
)
def test_whatever_backends_say_the_page_is_valid(lines: list[str]) -> None:
    """The parser reads it, each family once and each sample once."""
    page = "\n".join(lines)
    text = merged(page, page)
    families = list(parse(text))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    seen = [(s.name, tuple(s.labels.items())) for family in families for s in family.samples]
    assert len(set(seen)) == len(seen)
