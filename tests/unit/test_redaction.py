"""Secrets do not show."""

import pytest

from llama_router.core.config.parse import parse_config
from llama_router.core.config.redaction import (
    is_secret,
    redacted_command,
    redacted_config,
    redacted_env,
)


@pytest.mark.parametrize(
    "name",
    ["api-key", "API_KEY", "hf-token", "HF_TOKEN", "password", "DB_PASSWORD", "client-secret",
     "AWS_SECRET_ACCESS_KEY", "admin_token", "profile_key", "openai_api_keys", "credentials"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    """As options and variables are called."""
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["api-key-file", "model", "max-tokens", "max-num-batched-tokens", "keep", "cache-type-k",
     "special-tokens", "monkey", "PATH", "tokenizer", "override-kv", "SSH_KEY_PATH"],
)  # fmt: skip
def test_names_of_other_things(name: str) -> None:
    """A file that holds a secret, and a number of tokens, are none."""
    assert not is_secret(name)


def test_values_in_a_command_are_masked() -> None:
    """Behind the option or joined to it; the rest is as it was."""
    words = ["server", "--api-key", "s3cret", "--hf-token=s3cret", "--port", "1", "-m", "key.gguf"]
    assert redacted_command(words) == [
        "server", "--api-key", "********", "--hf-token=********", "--port", "1", "-m", "key.gguf",
    ]  # fmt: skip


def test_an_option_without_a_value_hides_nothing_else() -> None:
    """What follows is the next option."""
    assert redacted_command(["s", "--api-key", "--port", "1"]) == ["s", "--api-key", "--port", "1"]
    assert redacted_command(["s", "--api-key"]) == ["s", "--api-key"]


def test_variables_are_masked() -> None:
    """An empty one shows that it is empty."""
    assert redacted_env({"HF_TOKEN": "x", "API_KEY": "", "CUDA_VISIBLE_DEVICES": "0"}) == {
        "HF_TOKEN": "********", "API_KEY": "", "CUDA_VISIBLE_DEVICES": "0",
    }  # fmt: skip


def test_a_whole_configuration_is_masked() -> None:
    """Wherever a secret can stand, also where option and value are in two fields."""
    config = parse_config(
        {
            "router": {"admin_token": "s3cret-s3cret-s3cret"},
            "api_keys": {"a": {"key": "s3cret-key"}},
            "models": {
                "m": {
                    "args": ["s3cret", "--token", "s3cret"],
                    "spawn": {"command": ["x", "--api-key"], "env": {"TOKEN": "s3cret"}},
                }
            },
        }
    )
    masked = redacted_config(config)
    assert "s3cret" not in repr(masked)
    assert masked["models"]["m"]["spawn"]["args"] == ["********", "--token", "********"]
    assert masked["router"]["port"] == 8082
