"""Which program serves, and what it inherits."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from llama_router.backends import environment
from llama_router.backends.environment import find_program, inherited, withheld
from llama_router.errors.backends import SpawnError
from llama_router.models.caches import find_caches


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the running program lies in an empty folder, and so does all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(sys, "argv", [str(folder / "llama-router")])
    monkeypatch.setattr(sys, "executable", str(folder / "python3"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return folder


def test_llama_server_beside_the_program_comes_first(beside: Path, tmp_path: Path) -> None:
    """Before one on PATH."""
    executable(tmp_path / "path" / "llama-server")
    own = executable(beside / "llama-server")
    program = find_program(("llama-server", "--port", "1"))
    assert program.argv == (str(own), "--port", "1")
    assert program.speaks_child_protocol


def test_llama_server_on_path_comes_second(beside: Path, tmp_path: Path) -> None:
    """Before the embedded one."""
    found = executable(tmp_path / "path" / "llama-server")
    assert find_program(("llama-server",)).argv == (str(found),)


def test_the_embedded_server_takes_its_place(beside: Path) -> None:
    """With the same arguments."""
    program = find_program(("llama-server", "-m", "x"))
    assert program.argv[0] == sys.executable
    assert program.argv[-3:] == ("llama_router.backends.embedded", "-m", "x")
    assert program.speaks_child_protocol


def test_without_any_llama_server_a_start_fails_at_once_with_both_remedies(
    beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second attempt would find none either, so it is not repeated."""
    monkeypatch.setattr(environment, "find_spec", lambda _: None)
    with pytest.raises(SpawnError, match=r"install llama.cpp.*llama-router.embedded") as caught:
        find_program(("llama-server", "-m", "x"))
    assert caught.value.cause == "command_missing"
    assert not caught.value.retryable


def test_other_programs_are_left_to_path(beside: Path) -> None:
    """And are not taken for a llama-server."""
    program = find_program(("vllm", "serve"))
    assert program.argv == ("vllm", "serve")
    assert not program.speaks_child_protocol


def test_a_llama_server_given_by_path_speaks_the_protocol() -> None:
    """Its name says what it is."""
    assert find_program(("/opt/llama/llama-server",)).speaks_child_protocol


def test_only_allowed_variables_are_inherited() -> None:
    """Secrets and LLAMA_ARG_* stay with the router; accelerators and locales go through."""
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "0",
        "HF_TOKEN": "t",
        "LLAMA_ARG_CTX_SIZE": "9",
        "OPENAI_API_KEY": "secret",
        "NOTIFY_SOCKET": "/run/x",
    }
    kept = {"PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES", "HF_TOKEN"}
    assert inherited(environ).keys() == kept


@pytest.mark.parametrize(
    "name",
    [
        *("ROCBLAS_TENSILE_LIBPATH", "HIPBLASLT_TENSILE_LIBPATH", "MIOPEN_USER_DB_PATH"),
        *("RADV_PERFTEST", "MESA_VK_DEVICE_SELECT", "GGML_VK_VISIBLE_DEVICES"),
        *("ZES_ENABLE_SYSMAN", "UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS", "ZE_AFFINITY_MASK"),
        *("MUSA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "OCL_ICD_VENDORS"),
        *("DOCKER_CONFIG", "DOCKER_HOST", "CONTAINER_HOST", "DBUS_SESSION_BUS_ADDRESS"),
        *("all_proxy", "ALL_PROXY", "ftp_proxy", "HTTPS_PROXY", "no_proxy"),
        *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "SSL_CERT_FILE"),
        *("TOKENIZERS_PARALLELISM", "KMP_AFFINITY", "OMP_WAIT_POLICY"),
    ],
)
def test_what_drivers_and_libraries_read_is_inherited(name: str) -> None:
    """For every kind of card, for containers, proxies, certificates and threads."""
    assert inherited({name: "x"}) == {name: "x"}


class _ReadNames(Mapping[str, str]):
    """An environment that has nothing, and keeps the names that were looked up."""

    def __init__(self) -> None:
        self.names = set[str]()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_a_backend_has_the_same_caches_as_the_router() -> None:
    """Each variable that decides where a scan looks is inherited, or it would download again."""
    environ = _ReadNames()
    find_caches(environ)
    assert {"LLAMA_CACHE", "HF_HOME"} <= environ.names
    assert inherited(dict.fromkeys(environ.names, "x")).keys() == environ.names


def test_variables_that_look_wanted_are_named() -> None:
    """Settings of the program, devices and preloads; no secrets, nothing that is passed or set."""
    environ = {
        "LLAMA_ARG_CTX_SIZE": "9",
        "LLAMA_ARG_THREADS": "2",
        "LD_PRELOAD": "/lib/jemalloc.so",
        "WHISPER_MODEL": "x",
        "ACME_VISIBLE_DEVICES": "0",
        "ACME_TOKEN": "secret",
        "LLAMA_ROUTER_ADMIN_TOKEN": "secret",
        "CUDA_VISIBLE_DEVICES": "0",
        "NOTIFY_SOCKET": "/run/x",
        "EDITOR": "vi",
    }
    names = withheld(environ, program="/opt/whisper-server", env={"LLAMA_ARG_THREADS": "4"})
    wanted = ("ACME_VISIBLE_DEVICES", "LD_PRELOAD", "LLAMA_ARG_CTX_SIZE", "WHISPER_MODEL")
    assert names == wanted
    assert "WHISPER_MODEL" not in withheld(environ, program="llama-server")
