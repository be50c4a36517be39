"""Which llama-server serves, and whether it sees the GPU of the machine."""

from pathlib import Path

import pytest

from llama_router.backends.server_programs import (
    EMBEDDED,
    ServerProgram,
    devices_in,
    fault_in,
    gpus_of_machine,
    unused_gpu,
)

LIST = """\
ggml_cuda_init: found 1 CUDA devices:
Available devices:
  CUDA0: NVIDIA H200 (143156 MiB, 142631 MiB free)
  BLAS: OpenBLAS (0 MiB, 0 MiB free)
"""

NO_CUDA = (
    "/x/llama-server: error while loading shared libraries: libcublas.so.12: cannot open shared "
    "object file: No such file or directory"
)

NO_GOMP = (
    "error: xllamacpp cannot be loaded: the shared library libgomp.so.1 is missing. Install it: "
    "'apt install libgomp1'"
)


@pytest.mark.parametrize(
    ("output", "devices"),
    [
        (LIST, ("CUDA0: NVIDIA H200 (143156 MiB, 142631 MiB free)",)),
        ("Available devices:\n  (none)\n", ()),
        ("Available devices:\n", ()),
        ("error: invalid argument: --list-devices\n", None),
        ("", None),
    ],
)
def test_devices_are_those_that_the_program_lists(
    output: str, devices: tuple[str, ...] | None
) -> None:
    """The CPU is none of them; an older program has no list."""
    assert devices_in(output) == devices


@pytest.mark.parametrize(
    ("devices", "gpus", "warns"),
    [
        ((), ("NVIDIA H200",), True),
        ((), (), False),
        (None, ("NVIDIA H200",), False),
        (("CUDA0: NVIDIA H200",), ("NVIDIA H200",), False),
    ],
)
def test_a_gpu_that_the_program_does_not_see_is_a_warning(
    devices: tuple[str, ...] | None, gpus: tuple[str, ...], *, warns: bool
) -> None:
    """With the program, the card and the remedy; no guess where the program does not say."""
    warning = unused_gpu(ServerProgram(program="/usr/bin/llama-server", devices=devices), gpus)
    assert (warning is not None) is warns
    for word in ("/usr/bin/llama-server", "NVIDIA H200", "llama_server"):
        assert not warns or word in str(warning)


def put(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("has_node", [True, False])
def test_an_nvidia_card_counts_if_it_may_be_used_here(tmp_path: Path, *, has_node: bool) -> None:
    """In a container without the card, only its entry in /proc is there."""
    put(tmp_path / "proc/driver/nvidia/gpus/0000:18:00.0/information", "Model: \t NVIDIA H200\n")
    if has_node:
        put(tmp_path / "dev/nvidia0")
    assert gpus_of_machine(tmp_path) == (("NVIDIA H200",) if has_node else ())


@pytest.mark.parametrize(
    ("vendor", "vram_mib", "address", "gpus"),
    [
        ("0x1002", 16384, "0000:03:00.0", ("AMD",)),
        ("0x1002", 512, "0000:03:00.0", ()),
        ("0x8086", 0, "0000:03:00.0", ("Intel",)),
        ("0x8086", 0, "0000:00:02.0", ()),
        ("0x1a03", 0, "0000:03:00.0", ()),
    ],
)
def test_only_cards_of_their_own_count(
    tmp_path: Path, vendor: str, vram_mib: int, address: str, gpus: tuple[str, ...]
) -> None:
    """A GPU in the processor, or a server's display chip, is none that models are missed on."""
    put(tmp_path / "dev/dri/renderD128")
    device = tmp_path / "sys/devices" / address
    put(device / "vendor", f"{vendor}\n")
    put(device / "mem_info_vram_total", f"{vram_mib * 2**20}\n")
    card = tmp_path / "sys/class/drm/card0"
    card.mkdir(parents=True)
    (card / "device").symlink_to(device)
    assert gpus_of_machine(tmp_path) == gpus


def test_a_machine_without_a_card_has_none(tmp_path: Path) -> None:
    """Nor does one without /sys."""
    assert gpus_of_machine(tmp_path) == ()


@pytest.mark.parametrize(
    ("program", "status", "output", "reason"),
    [
        ("/x/llama-server", 127, NO_CUDA, "/x/llama-server: a shared library is missing"),
        ("/x/llama-server", -4, "", "/x/llama-server: it was built for another kind of processor"),
        (EMBEDDED, 1, NO_GOMP, "xllamacpp cannot be loaded: the shared library libgomp.so.1 is"),
        ("/x/llama-server", 1, "error: unknown argument: --version", None),
        ("/x/llama-server", 0, "version: 11549 (abc)", None),
        ("/x/llama-server", 0, "", None),
    ],
)
def test_a_program_that_cannot_run_is_told_from_one_that_does_not_know_the_option(
    program: str, status: int, output: str, reason: str | None
) -> None:
    """Only what would end a backend, too, is a fault of the program."""
    fault = fault_in(program, status, output)
    assert (fault is None) is (reason is None)
    assert str(fault).startswith(str(reason))


def test_a_program_is_described_in_words() -> None:
    """Its version and devices, as far as they are known."""
    program = ServerProgram(program="/x/llama-server", version="11549 (abc)", devices=())
    assert program.describe() == "/x/llama-server, version 11549 (abc), devices: none but the CPU"
    assert ServerProgram(program="p").describe() == "p, version unknown"
