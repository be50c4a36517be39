"""The text of systemd units."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.systemd.unit import UnitOptions, is_unmodified_unit, units

PROGRAM = ("/opt/llama-router/bin/llama-router",)


def service(**options) -> str:
    return units(UnitOptions(program=PROGRAM, **options))["llama-router.service"]


def value(text: str, key: str) -> str:
    """Return what a unit says for *key*, once."""
    (found,) = re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)
    return found


def test_the_system_s_service_has_a_user_of_its_own() -> None:
    """It is started as a service that notifies, with its folders, and with a device for GPUs."""
    text = service()
    assert value(text, "Type") == "notify"
    assert value(text, "DynamicUser") == "yes"
    assert value(text, "StateDirectory") == "llama-router"
    assert "DeviceAllow=char-nvidia* rw" in text
    assert value(text, "WantedBy") == "multi-user.target"
    assert value(text, "ExecStart") == f"{PROGRAM[0]} serve --config %E/llama-router/router.toml"


@pytest.mark.parametrize("user", [True, False])
def test_a_reload_is_a_command_that_fails_with_the_file(*, user: bool) -> None:
    """A signal would succeed whatever the router makes of the file."""
    config = "%E/llama-router/router.toml"
    assert value(service(user=user), "ExecReload") == f"{PROGRAM[0]} reload --config {config}"
    named = service(user=user, config="/srv/my router.toml")
    assert value(named, "ExecReload") == f'{PROGRAM[0]} reload --config "/srv/my router.toml"'


def test_only_groups_that_exist_are_named() -> None:
    """systemd would not start the service otherwise."""
    assert value(service(groups=("video",)), "SupplementaryGroups") == "video"
    assert value(service(groups=("video", "render")), "SupplementaryGroups") == "video render"
    assert "SupplementaryGroups" not in service()


def test_devices_of_a_headless_driver_are_made_first() -> None:
    """By the driver's program, where it is installed, and only by the system's service."""
    text = service(nvidia_modprobe="/usr/bin/nvidia-modprobe")
    assert value(text, "ExecStartPre") == "+-/usr/bin/nvidia-modprobe -u -c=0"
    assert "DeviceAllow=char-nvidia* rwm\n" in text
    assert "ExecStartPre" not in service()
    assert "ExecStartPre" not in service(user=True, nvidia_modprobe="/usr/bin/nvidia-modprobe")


def test_a_user_s_service_needs_no_privilege() -> None:
    """What only the system's manager may do is left out."""
    text = service(user=True)
    assert "DynamicUser" not in text
    assert "DeviceAllow" not in text
    assert value(text, "Delegate") == "yes"
    assert value(text, "WantedBy") == "default.target"


def test_a_backend_out_of_memory_does_not_end_the_service() -> None:
    """Nor does stopping it kill backends before the router could stop them."""
    for text in (service(), service(user=True)):
        assert value(text, "OOMPolicy") == "continue"
        assert value(text, "KillMode") == "mixed"


def test_a_socket_unit_is_written_if_asked_for() -> None:
    """It listens where it is told to, and starts with the sockets."""
    options = UnitOptions(program=PROGRAM, socket="127.0.0.1:8082")
    text = units(options)["llama-router.socket"]
    assert value(text, "ListenStream") == "127.0.0.1:8082"
    assert "llama-router.socket" not in units(UnitOptions(program=PROGRAM))


def test_a_unit_is_known_again_until_somebody_changes_it() -> None:
    """The first line has the digest of all others."""
    for text in units(UnitOptions(program=PROGRAM, socket="1")).values():
        assert is_unmodified_unit(text)
        assert not is_unmodified_unit(text.replace("llama", "alpaca", 1))
        assert not is_unmodified_unit(text + "\n")
        assert not is_unmodified_unit(text.partition("\n")[2])
    assert not is_unmodified_unit("")


@given(st.text())
def test_a_path_is_one_word_or_refused(path: str) -> None:
    """No path adds a word, a line or a setting; systemd reads it as it is."""
    try:
        text = service(config=f"/etc/{path}")
    except ValueError:
        assert not path.isprintable()
        return
    command = value(text, "ExecStart").removeprefix(f"{PROGRAM[0]} serve --config ")
    if command.startswith('"'):
        assert command.endswith('"')
        command = re.sub(r"\\(.)", r"\1", command[1:-1])
    else:
        assert not re.search(r"[\s\"'\\;]", command)
    assert command.replace("%%", "%").replace("$$", "$") == f"/etc/{path}"


@pytest.mark.parametrize("socket", ["", "80\nExecStartPre=/bin/evil", "\x00"])
def test_an_address_that_cannot_be_one_is_refused(socket: str) -> None:
    """It must not become another line."""
    with pytest.raises(ValueError, match="not an address"):
        units(UnitOptions(program=PROGRAM, socket=socket))


@pytest.mark.parametrize(
    "address", ["8082", "127.0.0.1:8082", "[::1]:8082", "0.0.0.0:1", "/run/llama-router.sock"]
)
def test_a_socket_listens_on_what_systemd_understands(address: str) -> None:
    """A port, an address with a port, or a path."""
    text = units(UnitOptions(program=PROGRAM, socket=address))["llama-router.socket"]
    assert value(text, "ListenStream") == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "0",
        "99999",
        "notaport",
        "localhost:8082",
        "::1:8082",
        "[::1]",
        "127.0.0.1",
        "a/b",
        "/a\nb",
    ],
)
def test_an_address_that_systemd_would_refuse_is_refused(address: str) -> None:
    """Before anything is written."""
    with pytest.raises(ValueError, match="not an address"):
        units(UnitOptions(program=PROGRAM, socket=address))
