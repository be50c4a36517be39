"""Editing router.toml: what was asked for changes, and nothing else."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from llama_router.config.edit import edited, table_in
from llama_router.errors.config import SettingError

TEXT = """\
# My machine.
[router]
port = 8082   # the usual one

# The good one.
[models.big]
path = "big.gguf"  # 40 GB
aliases = [
    "gpt-4",  # for the editor
]
spawn.ready_timeout_s = 300

[models."small:1b"]
path = 'small.gguf'

[models."small:1b".spawn]
env = { A = "1" }

# Templates come last.
[templates.t]
command = ["x"]
"""


def changed_lines(before: str, after: str) -> tuple[list[str], list[str]]:
    """Return the lines that are gone, and those that are new."""
    old, new = before.splitlines(), after.splitlines()
    return [line for line in old if line not in new], [line for line in new if line not in old]


def test_a_value_is_replaced_and_its_comment_kept() -> None:
    """One line differs."""
    result = edited(TEXT, ("router",), put={"port": 9000}, drop=[])
    assert changed_lines(TEXT, result) == (
        ["port = 8082   # the usual one"],
        ["port = 9000   # the usual one"],
    )


def test_a_value_is_added_to_its_table() -> None:
    """Also if a table inside of it follows."""
    result = edited(TEXT, ("models", "small:1b"), put={"ttl_s": 60.5}, drop=[])
    assert changed_lines(TEXT, result) == ([], ["ttl_s = 60.5"])
    assert tomllib.loads(result)["models"]["small:1b"]["ttl_s"] == 60.5


def test_dots_lead_into_tables() -> None:
    """Into those that are there, in whatever form, and into new ones."""
    result = edited(TEXT, ("models", "big"), put={"spawn.stop_timeout_s": 5}, drop=[])
    result = edited(result, ("models", "small:1b"), put={"spawn.env.B": "2"}, drop=[])
    result = edited(result, ("models", "big"), put={'spawn.env."C D"': "3"}, drop=[])
    models = tomllib.loads(result)["models"]
    assert models["big"]["spawn"] == {
        "ready_timeout_s": 300, "stop_timeout_s": 5, "env": {"C D": "3"},
    }  # fmt: skip
    assert models["small:1b"]["spawn"]["env"] == {"A": "1", "B": "2"}
    assert "# for the editor" in result


def test_a_value_is_removed() -> None:
    """One that is not there is no mistake."""
    result = edited(TEXT, ("models", "big"), put={}, drop=["aliases", "group", "spawn.env.X"])
    assert "aliases" not in tomllib.loads(result)["models"]["big"]
    assert "# The good one." in result


def test_tables_are_made() -> None:
    """In an empty file, too."""
    result = edited("", ("models", "a/b"), put={"ttl_s": 1}, drop=[])
    assert tomllib.loads(result) == {"models": {"a/b": {"ttl_s": 1}}}
    assert result.startswith('[models."a/b"]')


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "a = 1\nb", "a.", "[x]", "a..b", "'", "a=b"])
def test_what_is_no_key_is_refused(key: str) -> None:
    """Nothing can be smuggled into the file."""
    with pytest.raises(SettingError):
        edited(TEXT, ("router",), put={key: 1}, drop=[])


@pytest.mark.parametrize("value", [None, [None], {"a": None}])
def test_what_toml_cannot_hold_is_refused(value: object) -> None:
    """JSON's null, wherever it is."""
    with pytest.raises(SettingError, match="unset it"):
        edited(TEXT, ("router",), put={"port": value}, drop=[])


def test_what_only_the_router_can_read_is_left_alone() -> None:
    """tomlkit does not nest as deeply as tomllib."""
    deep = f"x = {'[' * 200}{']' * 200}\n"
    assert tomllib.loads(deep)
    with pytest.raises(SettingError, match="by hand"):
        edited(deep, ("router",), put={"port": 1}, drop=())


def test_a_value_is_no_table() -> None:
    """Nothing can be put into it."""
    with pytest.raises(SettingError, match="'port' is not a table"):
        edited(TEXT, ("router",), put={"port.x": 1}, drop=[])


def test_a_table_is_found() -> None:
    """Or an empty one, whatever is in the way."""
    document = tomllib.loads(TEXT)
    assert table_in(document, ("router",)) == {"port": 8082}
    assert table_in(document, ("models", "nobody")) == table_in(document, ("router", "port")) == {}


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)
PLAIN = (
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=2)
)
FILES = st.lists(
    st.sampled_from(
        ["[router]\nport = 1 # c\n", '[models.a]\n# c\npath = "x"\n',
         '[models.a.spawn]\ncwd = "/"\n',
         '[models.b]\nspawn = { cwd = "/" } # c\n', '[models."c d"]\nspawn.cwd = "/"\n', "# c\n",
         "[templates.t]\nargs = [\n 1, # c\n]\n", '[models.e.spawn.env]\nA = "1"\n']
    ),
    unique=True,
).map("\n".join)  # fmt: skip
KEYS = st.sampled_from(
    ["port", "path", "group", "spawn.cwd", "spawn.ready_timeout_s", "spawn.env.A", "spawn", "args"]
)


@settings(max_examples=300)
@given(
    FILES,
    st.sampled_from([("router",), *(("models", m) for m in ("a", "b", "c d", "e", "new.one"))]),
    st.dictionaries(KEYS, VALUES, max_size=3),
    st.lists(KEYS, max_size=2),
)
def test_every_edit_is_exact_or_refused(
    text: str, table: tuple[str, ...], put: dict[str, Any], drop: list[str]
) -> None:
    """Read back, the file has what was asked for; and no comment is lost that stays in place."""
    try:
        result = edited(text, table, put=put, drop=drop)
    except SettingError:
        event("refused")
        return
    event("edited")
    document = tomllib.loads(result)
    for key, value in put.items():
        if any(other == key or key.startswith(f"{other}.") for other in drop):
            continue
        later = list(put)[list(put).index(key) + 1 :]
        if any(other == key or key.startswith(f"{other}.") for other in later):
            continue
        if any(other.startswith(f"{key}.") for other in (*later, *drop)):
            continue
        *parents, last = key.split(".")
        assert table_in(document, (*table, *parents))[last] == value


def test_a_comment_stays_with_the_table_that_it_is_above() -> None:
    """What is added to a table stands below its last setting."""
    result = edited(TEXT, ("router",), put={"max_queued": 9, "port": 1}, drop=[])
    assert "port = 1   # the usual one\nmax_queued = 9\n\n# The good one.\n[models.big]" in result


def test_a_comment_stays_with_a_table_inside() -> None:
    """Of the same model, for instance."""
    text = '[models.m]\npath = "m"\n\n# Slow.\n[models.m.spawn]\nready_timeout_s = 9\n'
    result = edited(text, ("models", "m"), put={"ttl_s": 1}, drop=[])
    assert result == text.replace('path = "m"\n', 'path = "m"\nttl_s = 1\n')


def test_the_first_setting_of_a_table_stands_below_its_header() -> None:
    """Not behind pages of examples that are commented out."""
    text = "[router]\n\n# The port.\n# port = 8082\n\n\n# Models.\n[models]\n"
    result = edited(text, ("router",), put={"port": 1}, drop=[])
    assert result == text.replace("[router]\n", "[router]\nport = 1\n")


def test_a_text_that_looks_like_a_comment_is_left_alone() -> None:
    """In a string of several lines."""
    text = '[models.m]\npath = """\n# a\n"""\n# b\n[models.n]\npath = "n"\n'
    result = edited(text, ("models", "m"), put={"ttl_s": 1}, drop=[])
    assert tomllib.loads(result)["models"]["m"] == {"path": "# a\n", "ttl_s": 1}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("[models.a]\nx = 1\n\n[models.a.spawn]\nt = 2\n", "[models.a]\nx = 1\n\n"),
        ("[models.a]\nx = 1\nspawn = { t = 2 }\n", "[models.a]\nx = 1\n"),
        ("[models.a]\nx = 1\nspawn.t = 2\n", "[models.a]\nx = 1\n"),
        (
            "[models.a.spawn]\n# Mine.\nt = 2\n[models.b]\nx = 1\n",
            "[models.a.spawn]\n# Mine.\n[models.b]\nx = 1\n",
        ),
        ("[models.a.spawn]\nt = 2\nu = 3\n", "[models.a.spawn]\nu = 3\n"),
    ],
)
def test_a_table_goes_with_the_last_setting_in_it(text: str, left: str) -> None:
    """Unless there is a comment in it."""
    assert edited(text, ("models", "a"), put={}, drop=["spawn.t"]) == left
    assert edited(text, ("models", "a"), put={}, drop=["spawn.nothing"]) == text


def test_the_table_of_a_model_stays_when_it_is_empty() -> None:
    """That there is such a model means something."""
    text = "[models.a]\nx = 1\n"
    assert edited(text, ("models", "a"), put={}, drop=["x"]) == "[models.a]\n"
