"""The configuration's text for a browser, without its secrets, and back."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.config.masking import masked, unmasked
from llama_router.core.config.redaction import MASK
from llama_router.errors.config import ConfigError

TEXT = '''# the router
[router]
admin_token = "tok-aaaaaaaaaaaaaaaa"  # not for others
port = 8082
# admin_token = 'tok-old-old-old-old'

[api_keys.alice]
key = 'sk-alice-0123456789'
[api_keys.bob]
sha256 = "0123456789012345678901234567890123456789012345678901234567890123"
models = ["small-*"]

[models."a"]
args = ["--api-key", "sk-a", "--ctx-size", "4096",
        "--hf-token=hf_b", # and --api-key "x"
]
spawn.env = { HF_TOKEN = "hf_c", OMP_NUM_THREADS = "4", EMPTY_TOKEN = "" }
aliases = ["tokens"]
[models.b.spawn]
command = ["server", "--api-key"]
args = ["sk-d", "-v"]
env.DB_PASSWORD = """
multi
line"""
'''

SECRETS = (
    *("tok-aaaaaaaaaaaaaaaa", "tok-old-old-old-old", "sk-alice-0123456789", "0123456789012345"),
    *("sk-a", "hf_b", "hf_c", "sk-d", "multi"),
)


def test_every_secret_is_masked_and_nothing_else() -> None:
    """Also in arguments, in variables, and in settings that are commented out."""
    found = masked(TEXT)
    for secret in SECRETS:
        assert secret not in found.text
    assert len(found.secrets) == len(SECRETS)
    for kept in ("# not for others", "port = 8082", '"4096"', '"small-*"', '["tokens"]', '"-v"'):
        assert kept in found.text
    assert tomllib.loads(found.text).keys() == tomllib.loads(TEXT).keys()


def test_an_unchanged_text_comes_back_byte_for_byte() -> None:
    """Quotes, comments and lines."""
    found = masked(TEXT)
    assert unmasked(found.text, found.secrets) == TEXT


def test_masks_may_be_moved() -> None:
    """The number says which secret is meant, whatever is around it."""
    found = masked(TEXT)
    lines = found.text.splitlines(keepends=True)
    alice = next(line for line in lines if "key = " in line and MASK in line)
    rest = [line for line in lines if line is not alice and "api_keys.alice" not in line]
    moved = "".join([*rest, '[api_keys."carol"] # new\n', alice.replace("key =", "key  = ")])
    back = tomllib.loads(unmasked(moved, found.secrets))
    assert back["api_keys"]["carol"]["key"] == "sk-alice-0123456789"
    assert back["router"]["admin_token"] == "tok-aaaaaaaaaaaaaaaa"


def test_a_mask_may_be_part_of_another_string() -> None:
    """An argument that was written as one word and becomes two, or the other way round."""
    found = masked('[models.a]\nargs = ["--api-key=se\\"cret"]\n')
    changed = found.text.replace("--api-key=", '--api-key", "')
    assert tomllib.loads(unmasked(changed, found.secrets))["models"]["a"]["args"] == [
        "--api-key",
        'se"cret',
    ]


@pytest.mark.parametrize("mask", [MASK, f"{MASK}2", f"{MASK}0", f"{MASK}999999"])
def test_a_mask_without_a_secret_is_refused(mask) -> None:
    """With its line: it would be written into the file."""
    found = masked("[router]\nadmin_token = 'tok-aaaaaaaaaaaaaaaa'\n")
    with pytest.raises(ConfigError) as caught:
        unmasked(f'[router]\n\nadmin_token = "{mask}"\n', found.secrets)
    assert caught.value.problems[0].line == 3


def test_a_text_that_is_no_toml_is_masked_too() -> None:
    """Line by line, by what looks like a secret; once mended, it gets them back."""
    broken = TEXT.replace("port = 8082", "port = = 8082")
    found = masked(broken)
    for secret in SECRETS[:7]:
        assert secret not in found.text
    mended = found.text.replace("= =", "=")
    assert tomllib.loads(unmasked(mended, found.secrets)) == tomllib.loads(TEXT)


def test_a_mask_in_a_comment_is_text() -> None:
    """It may be a note about masks."""
    assert unmasked(f"# {MASK} hides it\n", ()) == f"# {MASK} hides it\n"


@given(st.text(alphabet="#=\"'[]\n\\ abk-_key.1", max_size=60))
def test_any_text_comes_back(text: str) -> None:
    """Whether it is TOML or not."""
    found = masked(text)
    try:
        tomllib.loads(text)
    except ValueError:
        return
    assert unmasked(found.text, found.secrets) == text


@given(st.text(min_size=1, max_size=20), st.sampled_from(["'", '"']))
def test_any_secret_comes_back(secret: str, quote: str) -> None:
    """Whatever characters are in it."""
    text = f"[router]\nadmin_token = {quote}{secret}{quote}\nport = 1\n"
    try:
        document = tomllib.loads(text)
    except ValueError:
        return
    found = masked(text)
    assert unmasked(found.text, found.secrets) == text
    changed = found.text.replace("port = 1", "port = 2").replace("admin_token", "admin_token ")
    assert tomllib.loads(unmasked(changed, found.secrets))["router"] == {
        **document["router"],
        "port": 2,
    }
