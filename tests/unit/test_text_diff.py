"""The change of a configuration file as a diff, without its secrets."""

from llama_router.config.text_diff import masked_diff

BEFORE = """\
# mine
[router]
admin_token = "0123456789abcdef"
drain_s = 5

[models.a]
path = "a.gguf"
ttl_s = 60
group = "g"
"""


def test_the_changed_lines_and_three_around_them() -> None:
    """As a unified diff, which other programs read."""
    after = BEFORE.replace("ttl_s = 60", "ttl_s = 600  # ten minutes")
    assert masked_diff(BEFORE, after, "router.toml") == [
        "--- router.toml",
        "+++ router.toml",
        "@@ -5,5 +5,5 @@",
        " ",
        " [models.a]",
        ' path = "a.gguf"',
        "-ttl_s = 60",
        "+ttl_s = 600  # ten minutes",
        ' group = "g"',
    ]


def test_equal_texts_have_no_difference() -> None:
    """Not even the names of the file."""
    assert masked_diff(BEFORE, BEFORE, "router.toml") == []


def test_an_empty_file_gets_its_first_line() -> None:
    """The range of nothing is written as other programs write it."""
    assert masked_diff("", "[router]\n", "f")[2:] == ["@@ -0,0 +1 @@", "+[router]"]


def test_a_changed_secret_shows_and_is_not_shown() -> None:
    """A mask stands on both sides; a new secret in front of others changes no other line."""
    after = BEFORE.replace("0123456789abcdef", "fedcba9876543210")
    lines = masked_diff(BEFORE, after, "f")
    assert [line for line in lines[3:] if line[0] in "+-"] == [
        '-admin_token = "********"',
        '+admin_token = "********"',
    ]
    after = 'default_spawn.env.HF_TOKEN = "hf_secret"\n' + BEFORE
    lines = masked_diff(BEFORE, after, "f")
    assert [line for line in lines[3:] if line[0] in "+-"] == [
        '+default_spawn.env.HF_TOKEN = "********"'
    ]


def test_a_secret_of_several_lines_is_not_shown() -> None:
    """Then only what is masked is compared."""
    after = BEFORE.replace('"0123456789abcdef"', '"""\nfirst-half\nother-half"""')
    text = "\n".join(masked_diff(BEFORE, after.replace("drain_s = 5", "drain_s = 6"), "f"))
    assert "half" not in text
    assert "0123" not in text
    assert "+drain_s = 6" in text
