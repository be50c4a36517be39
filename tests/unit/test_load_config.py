"""router.toml on disk: lines, files, sentences."""

import os
import shutil
import tomllib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from llama_router.backends import environment
from llama_router.config.file import read_file
from llama_router.config.load import LoadedConfig, load_config, load_file
from llama_router.config.locations import default_config_path
from llama_router.config.toml_lines import LineFinder
from llama_router.errors.config import ConfigError, Problem
from tests.opens import count_opens
from tests.privileges import like_anybody

ANYTHING = '[models.a.spawn]\ncommand = ["/bin/sh", "$port"]\n'  # a model that needs no file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model file, a projector and a program."""
    (tmp_path / "m.gguf").touch()
    (tmp_path / "p.gguf").touch()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "serve"
    program.touch()
    program.chmod(0o755)
    return tmp_path


def load(folder: Path, text: str) -> LoadedConfig:
    path = folder / "router.toml"
    path.write_text(text)
    return load_config(path)


def refused(folder: Path, text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return list(caught.value.problems)


def unavailable(folder: Path, text: str) -> list[Problem]:
    """Return what keeps single models of a usable configuration from being started."""
    loaded = load(folder, text)
    assert set(loaded.unavailable) <= set(loaded.warnings)
    return list(loaded.unavailable)


def places(problems: list[Problem] | tuple[Problem, ...]) -> list[tuple[int | None, str]]:
    return [(problem.line, problem.location) for problem in problems]


# --- Lines ---------------------------------------------------------------------------


def test_every_problem_has_its_line_and_they_are_in_file_order(folder: Path) -> None:
    """Problems of the values and of the files come together."""
    problems = refused(
        folder,
        """\
# A comment = "with a key"
[models."a b".spawn]
command = [
    "serve",  # [not a table]
    '''$path
''',
    "$nope",
]
env.A.B = 1
cwd = "missing"

[models."a b"]
path = "missing.gguf"

[router]
port = "80"
""",
    )
    assert places(problems) == [
        (7, 'models."a b".spawn.command[2]'),
        (9, 'models."a b".spawn.env.A'),
        (10, 'models."a b".spawn.cwd'),
        (13, 'models."a b".path'),
        (16, "router.port"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "location"),
    [
        ("\n\nrouter.port = '1'\n", 3, "router.port"),
        ("\n[router]\nport = '1'", 3, "router.port"),
        ("\r\n[router]\r\nport = '1'\r\n", 3, "router.port"),
        ("\n'router' . \"po\\u0072t\" = '1'", 2, "router.port"),
        ("\nrouter = { host = 'h', port = '1' }", 2, "router.port"),
        ('x = """\n\n"""""\n[router]\nport="1"', 1, "x"),
        ('\n[ models . "q\\"]\\n" ]\n', 2, 'models."q"]\n"'),
        ("\n[models.'a.b'] # ]\npath = 1", 3, 'models."a.b".path'),
        ("[models.a]\npath = 'm.gguf'\nargs = [\n\n 'x', # ,\n\n 1,\n]", 7, "models.a.args[1]"),
        ("[models.a]\npath='m.gguf'\nargs = [[\n'x'],\n[]]", 3, "models.a.args[0]"),
        ("[[models]]\n[models.a]\nb = 1", 1, "models"),
        ("[templates.t]\n[models.a]\n", 2, "models.a"),
        ("[models.a.spawn]\nargs=[]\n\n[models.a]\n", 4, "models.a"),
        ("models.b.aliases = []\nmodels.a.aliases = []", 1, "models.b"),
        ("x = 1979-05-27 07:32:00 # y\n[router]\nport=0\n", 1, "x"),
    ],
)
def test_a_problem_has_the_line_of_its_key(
    folder: Path, text: str, line: int, location: str
) -> None:
    """However TOML lets the key be written; else the line of its nearest parent."""
    assert (line, location) in places(refused(folder, text))


def _with_unique_leaves(shape: Any, numbers: Iterator[int]) -> Any:
    match shape:
        case dict():
            return {key: _with_unique_leaves(value, numbers) for key, value in shape.items()}
        case list():
            return [_with_unique_leaves(value, numbers) for value in shape]
        case str():
            return f"{shape}@{next(numbers)}@"
    return next(numbers)


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    match value:
        case dict():
            for key, inner in value.items():
                yield from _leaves(inner, (*path, key))
        case list():
            for index, inner in enumerate(value):
                yield from _leaves(inner, (*path, index))
        case _:
            yield path, value


_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from("\"'\\#[]{}=,.\n\t")
)
_SHAPES = st.dictionaries(
    _TEXT,
    st.recursive(
        st.none() | _TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
        max_leaves=10,
    ),
    max_size=4,
)


@given(_SHAPES)
def test_each_leaf_is_found_on_the_line_that_has_it(shape: dict[str, Any]) -> None:
    """Whatever the keys and strings contain; tomlkit writes, a marker in each value tells."""
    document = _with_unique_leaves(shape, iter(range(70_000_000, 80_000_000)))
    text = tomlkit.dumps(document)
    lines = LineFinder(text).lines
    assert {path: lines[path] for path, _ in _leaves(document)} == {
        path: text[
            : text.index(str(value).split("@")[-2] if "@" in str(value) else str(value))
        ].count("\n")
        + 1
        for path, value in _leaves(document)
    }


# --- Reading -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[router]\nport = \n", 2, "Invalid value"),
        ("[router]\nport = 1\nport = 2\n", 3, "Cannot overwrite a value"),
        ("a = 1\nb = [1", 2, "Unclosed array"),
        ("a = " + "9" * 5000, None, "not valid TOML"),
        ("a = " + "[" * 100_000, None, "nested too deeply"),
    ],
    ids=["value", "twice", "end", "digits", "depth"],
)
def test_bad_syntax_is_one_problem_with_its_line(
    folder: Path, text: str, line: int | None, message: str
) -> None:
    """The parser's own sentence, without its own position."""
    (problem,) = refused(folder, text)
    assert problem.line == line
    assert message in problem.message
    assert "(at " not in problem.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The sentence has the whole path."""
    with pytest.raises(ConfigError, match=f"cannot read {tmp_path}/x.toml: No such file"):
        load_config(tmp_path / "x.toml")


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    """The system's sentence says what it is."""
    with pytest.raises(ConfigError, match="it is not a file"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "# one\n" + ".".join(["a"] * 50_000) + " = 1\n",
        "\n[[" + ".".join(["a"] * 50_000) + "]]\n",
        "\nx = { y." + " . ".join(['"a.b"'] * 50_000) + " = 1 }\n",
        "# '\n" + "'a'." * 64 + "b = 1\n",
    ],
    ids=["key", "header", "quoted", "just too many"],
)
def test_a_key_of_very_many_parts_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    """Time and memory would grow by the square of their number."""
    tracemalloc.start()
    try:
        (problem,) = refused(tmp_path, text)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert str(problem) == "line 2: a key has more than 64 parts"


def test_dots_elsewhere_make_no_key_long(tmp_path: Path) -> None:
    """Those of texts, comments and quoted names mean nothing; 64 parts are allowed."""
    dotted = ".".join(["a"] * 1000)
    text = f"""
# "{dotted}
["{dotted}"]
x = '{dotted}'  # {dotted}
y = ['''
"{dotted}''', "{dotted}", '{dotted}"']
{".".join(["a"] * 63)} = 1
"""
    (problem,) = refused(tmp_path, text)
    assert (problem.line, problem.message[:11]) == (3, "unknown key")


def test_tables_and_arrays_are_not_nested_for_ever(tmp_path: Path) -> None:
    """Keys of a few parts lead deep, too, if they stand in each other's tables."""
    key = ".".join("abcdefghij")
    text = "x = " + f"{{ {key} = " * 10 + "1" + " }" * 10
    assert [str(p) for p in refused(tmp_path, text)] == ["arrays or tables are nested too deeply"]


def test_the_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a warning about its mode, and with problems that need their lines."""
    path = tmp_path / "router.toml"
    path.write_text('[router]\nadmin_token = "0123456789abcdef"\n')
    path.chmod(0o644)
    opened = count_opens(monkeypatch, path)
    assert [p.line for p in load_config(path).warnings] == [None, 2]
    assert len(opened) == 1
    assert "admin_token" in path.read_text()
    assert len(opened) == 2
    path.write_text("[router]\nprot = 1\n")
    opened.clear()
    with pytest.raises(ConfigError, match="line 2"):
        load_config(path)
    assert len(opened) == 1


def test_what_was_read_stays_as_it_was_written(tmp_path: Path) -> None:
    """File names are made absolute in a copy: settings are shown as the file has them."""
    path = tmp_path / "router.toml"
    path.write_text("[router]\nmodels_dirs = ['x']\n[models.a]\nspawn.command = ['./b']\n")
    file = read_file(path)
    load_file(file)
    assert file.document == tomllib.loads(path.read_text())
    assert file.document is file.document


def test_text_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    """TOML is UTF-8."""
    path = tmp_path / "router.toml"
    path.write_bytes(b"# one\n# caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == "line 2: not UTF-8 text"


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    """Some editors write one."""
    path = tmp_path / "router.toml"
    path.write_bytes(b"\xef\xbb\xbf[router]\nport = 1\n")
    assert load_config(path).config.router.port == 1


def test_a_loaded_configuration_says_where_it_came_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is absolute, whatever was given."""
    (folder / "router.toml").write_text(ANYTHING)
    monkeypatch.chdir(folder)
    loaded = load_config(Path("router.toml"))
    assert loaded.path == folder / "router.toml"
    assert loaded.warnings == ()
    assert list(loaded.config.models) == ["a"]


# --- Files ---------------------------------------------------------------------------


def test_relative_names_belong_to_the_folder_of_the_file(folder: Path) -> None:
    """The configuration that comes out has absolute names only."""
    config = load(
        folder,
        """
        router.state_dir = "state"
        [models.a]
        path = "m.gguf"
        mmproj = "./p.gguf"
        spawn = { command = ["bin/serve", "$path", "$mmproj", "bin/serve"], cwd = "bin" }
        """,
    ).config
    spec = config.models[config.resolve("a")]  # type: ignore[index] # it is there
    assert config.router.state_dir == f"{folder}/state"
    assert (spec.path, spec.mmproj) == (f"{folder}/m.gguf", f"{folder}/p.gguf")
    assert spec.spawn.cwd == f"{folder}/bin"
    assert spec.spawn.command == (f"{folder}/bin/serve", "$path", "$mmproj", "bin/serve")


def test_a_link_to_the_file_counts_as_the_file(folder: Path) -> None:
    """Names belong to the folder of the link, not to that of its target."""
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "real.toml").write_text("models.a.path = 'm.gguf'")
    (folder / "router.toml").symlink_to("elsewhere/real.toml")
    (spec,) = load_config(folder / "router.toml").config.models.values()
    assert spec.path == f"{folder}/m.gguf"


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In models, programs and folders."""
    monkeypatch.setenv("HOME", str(folder))
    config = load(
        folder / "bin",
        'default_spawn = { command = ["~/bin/serve"], cwd = "~" }\nmodels.a.path = "~/m.gguf"',
    ).config
    (spec,) = config.models.values()
    assert spec.path == f"{folder}/m.gguf"
    assert spec.spawn.command == (f"{folder}/bin/serve",)
    assert spec.spawn.cwd == str(folder)


def test_an_unknown_home_folder_is_a_problem(folder: Path) -> None:
    """`~name` of nobody is refused, not taken literally."""
    (problem,) = refused(folder, f"{ANYTHING}[models.b]\npath = '~nobody-here/m.gguf'")
    assert problem.location == "models.b.path"
    assert "home folder" in problem.message


def test_a_dollar_sign_in_a_folder_survives(folder: Path) -> None:
    """A name that is made absolute is still a valid command."""
    odd = folder / "a$port"
    (folder / "bin").rename(odd)
    (spec,) = load(odd, "models.a.spawn.command = ['./serve']").config.models.values()
    assert spec.spawn.command == (f"{folder}/a$$port/serve",)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("models.b = { path = 'no.gguf' }", "No such file or directory"),
        ("models.b = { mmproj = 'bin', path = 'm.gguf' }", "not a file"),
        ("models.b = { path = 'm.gguf', mmproj = 'no.gguf' }", "No such file or directory"),
        ("models.b = { path = 'm.gguf/x' }", "Not a directory"),
        (f"models.b = {{ path = '{'x' * 300}' }}", "File name too long"),
        ("default_spawn = { cwd = 'no' }", "No such file or directory"),
        ("templates.t = { cwd = 'm.gguf' }", "not a folder"),
        ("templates.t = { command = ['bin/no'] }", "No such file or directory"),
        ("default_spawn = { command = ['./m.gguf'] }", "not executable"),
        ("models.b = { spawn.command = ['./bin'] }", "not a file"),
    ],
)
def test_a_file_that_cannot_be_used_costs_single_models(
    folder: Path, line: str, fault: str
) -> None:
    """The rest is usable; the message has the line, the absolute name and the reason."""
    (problem,) = unavailable(folder, f"\n{line}\n{ANYTHING}")
    assert problem.line == 2
    assert fault in problem.message
    assert str(folder) in problem.message


def test_a_state_folder_that_is_none_is_a_problem(folder: Path) -> None:
    """Without it the router cannot work at all."""
    (problem,) = refused(folder, f"\nrouter.state_dir = 'm.gguf'\n{ANYTHING}")
    assert (problem.line, problem.message) == (2, f"{folder}/m.gguf: not a folder")


def test_other_mistakes_are_said_together_with_missing_files(folder: Path) -> None:
    """A file with a mistake is refused with everything that is wrong with it."""
    problems = refused(folder, "models.b.path = 'no.gguf'\nrouter.port = '0'\n")
    assert places(problems) == [(1, "models.b.path"), (2, "router.port")]


def test_exactly_the_models_that_need_a_missing_file_are_unavailable(folder: Path) -> None:
    """Also those that inherit the name of it; one that has its own instead is not."""
    config = load(
        folder,
        """
        templates.t.command = ["bin/no"]
        models.a = { template = "t" }
        models.b = { template = "t", spawn.command = ["bin/serve"] }
        models.c = { path = "m.gguf", mmproj = "no.gguf", spawn.command = ["bin/serve"] }
        """,
    ).config
    assert {str(model): fault.need.path for model, fault in config.file_faults.items()} == {
        "a": f"{folder}/bin/no",
        "c": f"{folder}/no.gguf",
    }


@pytest.mark.parametrize(
    ("args", "missing"),
    [
        ("'--model-draft', 'no.gguf'", "no.gguf"),
        ("'--lora', 'p.gguf,no.gguf'", "no.gguf"),
        ("'--chat-template-file', 'no.jinja'", "no.jinja"),
        ("'--lora', 'p.gguf'", None),
        ("'--alias', 'no.gguf'", None),
    ],
)
def test_files_in_arguments_of_llama_server_are_looked_for(
    folder: Path, args: str, missing: str | None
) -> None:
    """Below its folder, as it would; they are said at the model."""
    text = f"[models.a]\npath = 'm.gguf'\nspawn.cwd = '.'\nargs = [{args}]\n"
    found = [(p.line, p.location, p.message) for p in unavailable(folder, text)]
    said = (1, "models.a", f"the file {folder}/{missing} is not there")
    assert found == ([said] if missing else [])


def test_a_model_that_may_not_be_read_is_unavailable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found at load, not when the first request comes."""
    monkeypatch.setattr(os, "access", lambda _path, mode, **_kw: mode != os.R_OK)
    (problem,) = unavailable(folder, f"models.b.path = 'm.gguf'\n{ANYTHING}")
    assert problem.message == f"{folder}/m.gguf: not readable for this user"


@pytest.mark.parametrize(
    "text",
    [
        "router = 1",
        "router.port = 0x" + "f" * 5000,
        "router.state_dir = ''",
        "models = 1",
        "models.a = 1",
        "models.a.path = ''",
        'models.a.path = "\\u0000"',
        "models.a.spawn = 1",
        "default_spawn.command = 'bin/no'",
        "default_spawn.command = []",
        "default_spawn.command = ['']",
        'default_spawn.command = ["/\\u0000"]',
        "default_spawn.command = [1]",
        "default_spawn.command = ['/$no']",
        "default_spawn.cwd = 1",
        "templates = [1]",
    ],
)
def test_what_has_the_wrong_type_is_reported_once(folder: Path, text: str) -> None:
    """The check of the files leaves it to the check of the values."""
    assert len(refused(folder, text)) == 1


# --- Warnings ------------------------------------------------------------------------


def test_no_models_is_a_warning(folder: Path) -> None:
    """Models may be found later, by a scan."""
    (warning,) = load(folder, "").warnings
    assert str(warning) == "no models are configured"


def test_a_program_that_is_not_on_path_is_a_warning(folder: Path) -> None:
    """PATH may be another one when it is spawned."""
    (warning,) = load(folder, "[models.a.spawn]\ncommand = [\n'no-such-program', '$port']").warnings
    assert (warning.line, warning.location) == (3, "models.a.spawn.command[0]")
    assert warning.message == "there is no program 'no-such-program' on PATH"


def test_a_program_on_path_is_no_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual case."""
    monkeypatch.setenv("PATH", str(folder / "bin"))
    assert load(folder, "models.a.spawn.command = ['serve', '$port']").warnings == ()


@pytest.mark.parametrize(
    "written", ["", "default_spawn.command = ['llama-server', '-m', '$path', '--port', '$port']\n"]
)
@pytest.mark.parametrize("embedded", [True, False])
def test_llama_server_may_be_missing_if_the_embedded_one_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, written: str, *, embedded: bool
) -> None:
    """One warning says that there is neither, for the built-in command as well."""
    monkeypatch.setattr(shutil, "which", lambda _, path=None: None)  # noqa: ARG005 -- as it is called
    monkeypatch.setattr(environment, "find_spec", lambda _: object() if embedded else None)
    text = f"{written}models.a.path = 'm.gguf'\nmodels.b.path = 'm.gguf'"
    warnings = load(folder, text).warnings
    assert [(w.line, "xllamacpp" in w.message) for w in warnings] == [(1, True)] * (not embedded)


def test_a_named_llama_server_belongs_to_the_folder_of_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then none is looked for on PATH."""
    monkeypatch.setattr(environment, "find_llama_server", lambda: None)
    program = folder / "bin" / "llama-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (
        "router.llama_server = 'bin/llama-server'\n"
        "default_spawn.command = ['llama-server', '-m', '$path', '--port', '$port']\n"
        "models.a.path = 'm.gguf'"
    )
    loaded = load(folder, text)
    assert loaded.warnings == ()
    assert next(iter(loaded.config.models.values())).spawn.command[0] == str(program)


def test_a_named_llama_server_that_is_missing_costs_the_models_that_it_serves(
    folder: Path,
) -> None:
    """They are unavailable; those of other programs are not."""
    text = (
        "router.llama_server = 'bin/llama-server'\nmodels.a.path = 'm.gguf'\n"
        "models.b.spawn.command = ['/bin/sh']"
    )
    loaded = load(folder, text)
    assert loaded.config.file_faults.keys() == {"a"}
    (warning,) = loaded.unavailable
    assert (warning.line, warning.location) == (1, "router.llama_server")


def test_a_program_given_by_a_placeholder_is_not_looked_for(folder: Path) -> None:
    """It is another one for each model."""
    loaded = load(folder, "models.a = { path = 'm.gguf', spawn.command = ['$path', '$port'] }")
    assert loaded.warnings == ()


def test_a_command_that_many_models_inherit_is_doubted_once(folder: Path) -> None:
    """At the place where it is written."""
    text = (
        "[default_spawn]\ncommand = ['/bin/sh', '$path']\n"
        "[models]\na.path = 'm.gguf'\nb.path = 'm.gguf'\n"
    )
    (warning,) = load(folder, text).warnings
    assert (warning.line, warning.location) == (2, "default_spawn.command")
    assert "'$port'" in warning.message


def test_an_mmproj_that_nothing_uses_is_a_warning(folder: Path) -> None:
    """Nothing is appended behind the user's back, so they must hear of it."""
    text = "[models.a]\npath = 'm.gguf'\nmmproj = 'p.gguf'\n"
    command = "spawn.command = ['/bin/sh', '$path', '$port']\n"
    (warning,) = load(folder, text + command).warnings
    assert (warning.line, warning.location) == (3, "models.a.mmproj")
    assert load(folder, text + command + "args = ['--mmproj=$mmproj']").warnings == ()


# --- Where it is looked for ----------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "second"),
    [
        ({"HOME": "/home/u"}, "/home/u/.config"),
        ({"HOME": "/home/u", "XDG_CONFIG_HOME": ""}, "/home/u/.config"),
        ({"HOME": "/home/u", "XDG_CONFIG_HOME": "relative"}, "/home/u/.config"),
        ({"HOME": "/home/u", "XDG_CONFIG_HOME": "/xdg"}, "/xdg"),
    ],
)
def test_the_working_folder_comes_before_the_users_own(
    environ: dict[str, str], second: str
) -> None:
    """XDG_CONFIG_HOME counts only if it is absolute, as its specification says."""
    assert default_config_path(environ) == [
        Path("router.toml"),
        Path(second, "llama-router/router.toml"),
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[router]\nadmin_token = "0123456789abcdef"\n', "router.admin_token"),
        ('[api_keys.bob]\nkey = "0123456789abcdef"\n', "api_keys.bob.key"),
        (f'[api_keys.bob]\nsha256 = "{"a" * 64}"\n', None),
    ],
)
def test_a_secret_that_everybody_may_read_is_doubted(tmp_path, text, place) -> None:
    """As long as the mode of the file lets them."""
    path = tmp_path / "router.toml"
    path.write_text(text + '[models.a]\nspawn.command = ["true", "$port"]\n')
    path.chmod(0o644)
    modes = [problem for problem in load_config(path).warnings if "0644" in problem.message]
    assert [(problem.location, problem.line) for problem in modes] == ([(place, 2)] * bool(place))
    path.chmod(0o640)
    assert load_config(path).warnings == ()


def test_a_file_that_may_not_be_read_is_a_problem(tmp_path) -> None:
    """With the system's reason; the router goes on with what it has."""
    path = tmp_path / "router.toml"
    path.touch(mode=0)
    with like_anybody(), pytest.raises(ConfigError) as refused:
        load_config(path)
    assert str(refused.value) == f"cannot read {path}: Permission denied"
