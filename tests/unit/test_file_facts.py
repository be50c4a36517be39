"""Facts about a model's file, for lists."""

from __future__ import annotations

from llama_router.models.discovery.found import ModelKind
from llama_router.models.file_facts import FileFacts, read_facts
from tests.gguf_bytes import header, model_keys


def test_the_name_says_the_quantization(tmp_path) -> None:
    """So the end of the header need not be read for it."""
    path = tmp_path / "small-q4_k_m.gguf"
    path.write_bytes(header(model_keys()))
    facts = read_facts(str(path))
    assert facts.quant == "Q4_K_M"
    assert facts.size_bytes == path.stat().st_size


def test_the_header_says_it_where_the_name_does_not(tmp_path) -> None:
    """Behind the vocabulary, so it takes a second look."""
    path = tmp_path / "small.gguf"
    path.write_bytes(header({**model_keys(vocabulary=1000), "general.file_type": 7}))
    assert not read_facts(str(path)).is_whole
    facts = read_facts(str(path), whole=True)
    assert (facts.quant, facts.is_whole) == ("Q8_0", True)


def test_the_chat_template_says_what_a_model_can_do(tmp_path) -> None:
    """It follows the vocabulary, so it takes the whole header; the task is at the beginning."""
    path = tmp_path / "small-q4_k_m.gguf"
    template = "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}<think>{% endif %}"
    keys = {**model_keys(vocabulary=1000), "tokenizer.chat_template": template}
    path.write_bytes(header(keys))
    first, whole = read_facts(str(path)), read_facts(str(path), whole=True)
    assert (first.kind, first.takes_tools, first.thinks) == (ModelKind.CHAT, False, False)
    assert (whole.kind, whole.takes_tools, whole.thinks) == (ModelKind.CHAT, True, True)


def test_the_size_is_that_of_all_parts(tmp_path) -> None:
    """If one is missing, it is not known."""
    for part in (1, 2):
        (tmp_path / f"a-0000{part}-of-00002.gguf").write_bytes(b"x" * part)
    first = tmp_path / "a-00001-of-00002.gguf"
    assert read_facts(str(first)).size_bytes == 3
    (tmp_path / "a-00002-of-00002.gguf").unlink()
    assert read_facts(str(first)).size_bytes is None


def test_a_file_that_is_not_there_has_no_facts(tmp_path) -> None:
    """The start of its backend says what is wrong with it."""
    assert read_facts(str(tmp_path / "none")) == FileFacts(is_whole=True)
