"""How backends are told which GPUs to use, and what their own commands say about it."""

import pytest

from llama_router.core.memory.devices import HOST, Device, DeviceId, DeviceKind
from llama_router.core.memory.program_devices import identified, listed_devices
from llama_router.core.memory.visibility import ProgramView, device_choice, pinned_devices


def gpu(name: str, kind: DeviceKind, words: str, selector: str, mib: int = 24000) -> Device:
    return Device(id=DeviceId(name), kind=kind, name=words, selector=selector, capacity_mib=mib)


N0 = gpu("nvidia0", DeviceKind.NVIDIA, "NVIDIA GeForce RTX 3060", "GPU-aaaa-1", 12000)
N1 = gpu("nvidia1", DeviceKind.NVIDIA, "NVIDIA GeForce RTX 4090", "GPU-bbbb-2")
A0 = gpu("amd0", DeviceKind.AMD, "AMD Radeon RX 7900 XT/7900 XTX", "GPU-18f6")
A1 = gpu("amd1", DeviceKind.AMD, "AMD GPU 0000:08:00.0", "2", 16000)
I0 = gpu("intel0", DeviceKind.INTEL, "Intel Arc B580", "1", 12000)
I1 = gpu("intel1", DeviceKind.INTEL, "Intel Arc B580", "2", 12000)
S0 = gpu("sim0", DeviceKind.SIMULATED, "simulated sim0", "")
S1 = gpu("sim1", DeviceKind.SIMULATED, "simulated sim1", "")
MEMORY = Device(id=HOST, kind=DeviceKind.HOST, capacity_mib=64000)

CUDA = [
    "CUDA0: NVIDIA GeForce RTX 4090 (24080 MiB, 23600 MiB free)",
    "CUDA1: NVIDIA GeForce RTX 3060 (12000 MiB, 11900 MiB free)",
]
VULKAN = [
    "Vulkan0: NVIDIA GeForce RTX 4090 (24564 MiB, 24000 MiB free)",
    "Vulkan1: AMD Radeon RX 7900 XTX (RADV NAVI31) (24560 MiB, 24000 MiB free)",
    "Vulkan2: AMD Radeon RX 9070 XT (RADV GFX1201) (16304 MiB, 16000 MiB free)",
]
SERVER = ("/opt/llama-server", "--model", "a.gguf")


def view(*devices: Device, lines: list[str] | None = None) -> ProgramView:
    return ProgramView.of({device.id: device for device in (MEMORY, *devices)}, lines)


def test_lists_of_devices_are_read() -> None:
    """With sizes and without; what is no device is left out."""
    first, second = listed_devices([CUDA[0], "SYCL0: Intel(R) Arc(TM)", "none"])
    assert (first.name, first.interface, first.total_mib) == ("CUDA0", "CUDA", 24080)
    assert first.description == "NVIDIA GeForce RTX 4090"
    assert (second.name, second.description, second.total_mib) == ("SYCL0", "Intel(R) Arc(TM)", 0)


def test_listed_devices_are_known_by_their_words() -> None:
    """CUDA counts the fastest first, the driver by address."""
    found = identified(listed_devices(CUDA), [N0, N1])
    assert found == {"CUDA0": "nvidia1", "CUDA1": "nvidia0"}


def test_listed_devices_are_known_by_vendor_and_size() -> None:
    """Where no list of names says what a card is called."""
    found = identified(listed_devices(VULKAN), [N1, A1, A0])
    assert found == {"Vulkan0": "nvidia1", "Vulkan1": "amd0", "Vulkan2": "amd1"}


def test_equal_cards_are_known_by_their_order() -> None:
    """Nothing else tells them apart."""
    lines = [f"Vulkan{number}: Intel(R) Arc(tm) B580 (12216 MiB, 9 MiB free)" for number in (0, 1)]
    assert identified(listed_devices(lines), [I0, I1]) == {"Vulkan0": "intel0", "Vulkan1": "intel1"}


def test_what_is_not_of_this_machine_is_left_out() -> None:
    """A remote device, or one that is no device here, such as an integrated GPU."""
    lines = [*VULKAN, "RPC0: 10.0.0.2:50052 (9 MiB, 9 MiB free)", "Vulkan3: llvmpipe"]
    assert identified(listed_devices(lines), [N1]) == {"Vulkan0": "nvidia1"}


@pytest.mark.parametrize(
    ("chosen", "env"),
    [
        ([N1, N0], {"CUDA_VISIBLE_DEVICES": "GPU-bbbb-2,GPU-aaaa-1"}),
        ([A0], {"ROCR_VISIBLE_DEVICES": "GPU-18f6"}),
        ([I1, I0], {"ZE_AFFINITY_MASK": "1,2", "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1"}),
        ([S1], {"SIMULATED_VISIBLE_DEVICES": "sim1"}),
        ([], {}),
    ],
)
def test_any_program_is_told_by_a_variable(chosen: list[Device], env: dict[str, str]) -> None:
    """The one of the vendor; a mask has an order of its own."""
    choice = device_choice(chosen, view(N0, N1, A0, I0, I1, S0, S1))
    assert (choice.env, choice.argv, choice.fault) == (env, (), None)


def test_a_gpu_that_nothing_can_choose_gets_no_variable() -> None:
    """AMD's without the compute driver: another value would hide all GPUs."""
    unnamed = gpu("amd0", DeviceKind.AMD, "AMD GPU", "")
    assert device_choice([unnamed], view(unnamed)).env == {}


def test_a_server_for_one_vendor_needs_the_variable_only() -> None:
    """It sees no other GPUs."""
    choice = device_choice([N0], view(N0, N1, A0, lines=CUDA))
    assert choice.env == {"CUDA_VISIBLE_DEVICES": "GPU-aaaa-1"}
    assert choice.argv == ()


def test_a_split_has_the_order_of_the_devices() -> None:
    """Which the variable makes those of the program; one device is not split."""
    machine = view(N0, N1, lines=CUDA)
    shares = {N0.id: 4000, N1.id: 9000}
    assert device_choice([N1, N0], machine, shares).argv == ("--tensor-split", "9000,4000")
    assert device_choice([N1], machine, shares).argv == ()
    assert device_choice([N1, N0], machine).argv == ()


def test_vulkan_is_told_by_name() -> None:
    """By the names in its own list."""
    choice = device_choice([A0, N1], view(N1, A0, A1, lines=VULKAN), {A0.id: 2, N1.id: 1})
    assert choice.env == {}
    assert choice.argv == ("--device", "Vulkan1,Vulkan0", "--tensor-split", "2,1")


def test_a_server_with_several_interfaces_is_told_by_name_too() -> None:
    """Or it would use the same GPU, or another one, by Vulkan; the variable counts CUDA's anew."""
    machine = view(N0, N1, A0, lines=[*CUDA, *VULKAN[1:2]])
    choice = device_choice([N0], machine)
    assert choice.env == {"CUDA_VISIBLE_DEVICES": "GPU-aaaa-1"}
    assert choice.argv == ("--device", "CUDA0")
    choice = device_choice([A0], machine)
    assert (choice.env, choice.argv) == ({}, ("--device", "Vulkan1"))


def test_a_gpu_that_the_program_does_not_list_is_a_fault() -> None:
    """The sentence names it."""
    choice = device_choice([A0], view(N0, N1, A0, lines=CUDA))
    assert "amd0" in str(choice.fault)


def test_a_simulated_gpu_leaves_the_program_alone() -> None:
    """Also a real one, whose own GPUs have nothing to do with it."""
    choice = device_choice([S0, S1], view(N1, S0, S1, lines=CUDA), {S0.id: 1, S1.id: 1})
    assert choice.env == {"SIMULATED_VISIBLE_DEVICES": "sim0,sim1"}
    assert choice.argv == ("--tensor-split", "1,1")


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        ((), {}),
        (("--n-gpu-layers", "99"), {}),
        (("-sm", "none"), {}),
        (("--main-gpu", "1"), {}),
        ((), {"ROCR_VISIBLE_DEVICES": "0"}),
    ],
)
def test_a_command_may_leave_the_choice_open(argv: tuple[str, ...], env: dict[str, str]) -> None:
    """A variable for another vendor's programs changes nothing."""
    assert pinned_devices((*SERVER, *argv), env, view(N0, N1, lines=CUDA)) is None


@pytest.mark.parametrize(
    ("argv", "env", "pinned"),
    [
        (("--device", "none"), {}, ()),
        (("-ngl", "0"), {}, ()),
        ((), {"LLAMA_ARG_N_GPU_LAYERS": "0"}, ()),
        ((), {"CUDA_VISIBLE_DEVICES": ""}, ()),
        ((), {"CUDA_VISIBLE_DEVICES": "-1"}, ()),
        (("-dev", "CUDA1"), {}, ("nvidia0",)),
        (("--device", "cuda1,CUDA0"), {}, ("nvidia0", "nvidia1")),
        ((), {"LLAMA_ARG_DEVICE": "CUDA0"}, ("nvidia1",)),
        (("--device", "CUDA1"), {"LLAMA_ARG_DEVICE": "CUDA0"}, ("nvidia0",)),
        ((), {"CUDA_VISIBLE_DEVICES": "GPU-aaaa"}, ("nvidia0",)),
        ((), {"CUDA_VISIBLE_DEVICES": "1,0"}, ("nvidia0", "nvidia1")),
        ((), {"CUDA_VISIBLE_DEVICES": "0,7,1"}, ("nvidia1",)),
        (("--device", "CUDA0"), {"CUDA_VISIBLE_DEVICES": "1"}, ("nvidia0",)),
        (("-sm", "none", "-mg", "1"), {}, ("nvidia0",)),
        (("-sm", "none", "-mg", "5"), {}, ()),
        (("-sm", "none", "-mg", "9" * 5000), {}, ()),
        (("--tensor-split", "3,1"), {}, ("nvidia1", "nvidia0")),
        (("-ts", "0/1"), {}, ("nvidia0",)),
        (("-ts", "1"), {}, ("nvidia1",)),
    ],
)
def test_what_a_command_fixes_is_seen(
    argv: tuple[str, ...], env: dict[str, str], pinned: tuple[str, ...]
) -> None:
    """By the names that the program has for its devices, after variables have hidden some."""
    assert pinned_devices((*SERVER, *argv), env, view(N0, N1, lines=CUDA)) == pinned


def test_a_server_without_gpus_uses_host_memory() -> None:
    """It lists none, whatever the machine has; so does the embedded one."""
    embedded = ("python", "-P", "-m", "llama_router.backends.embedded", "--model", "a.gguf")
    assert pinned_devices(SERVER, {}, view(N0, lines=[])) == ()
    assert pinned_devices(embedded, {}, view(N0, lines=[])) == ()


@pytest.mark.parametrize(
    ("env", "pinned"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ("nvidia1",)),
        ({"ROCR_VISIBLE_DEVICES": "2"}, ("amd1",)),
        ({"ROCR_VISIBLE_DEVICES": "0,2", "HIP_VISIBLE_DEVICES": "1"}, ("amd1",)),
        ({"ZE_AFFINITY_MASK": "2.1"}, ("intel1",)),
        ({"ONEAPI_DEVICE_SELECTOR": "level_zero:0"}, ("intel0",)),
        ({"ONEAPI_DEVICE_SELECTOR": "level_zero:*"}, ("intel0", "intel1")),
        ({"SIMULATED_VISIBLE_DEVICES": "sim1"}, ("sim1",)),
    ],
)
def test_any_program_is_fixed_by_variables(
    env: dict[str, str], pinned: tuple[str, ...] | None
) -> None:
    """It uses the vendor whose variable is set; options of llama-server mean nothing to it."""
    machine = view(N0, N1, A0, A1, I0, I1, S0, S1)
    assert pinned_devices(("vllm", "serve", "-ngl", "0"), env, machine) == pinned


def test_hip_obeys_the_variable_of_cuda() -> None:
    """On a machine without NVIDIA's GPUs."""
    assert pinned_devices(("vllm",), {"CUDA_VISIBLE_DEVICES": "1"}, view(A0, A1)) == ("amd1",)


def test_vulkan_is_fixed_by_its_variable() -> None:
    """And counts its devices anew."""
    machine = view(N1, A0, A1, lines=VULKAN)
    env = {"GGML_VK_VISIBLE_DEVICES": "2,0"}
    assert pinned_devices(SERVER, env, machine) == ("amd1", "nvidia1")
    assert pinned_devices((*SERVER, "-dev", "Vulkan1"), env, machine) == ("nvidia1",)


@pytest.mark.parametrize(
    ("words", "pinned"),
    [
        ("docker run vllm/vllm-openai", ()),
        ("docker run --gpus all vllm", ("nvidia0", "nvidia1")),
        ("sudo /usr/bin/docker run --gpus=device=1 vllm", ("nvidia1",)),
        ('docker run --gpus "device=0,1" vllm', ("nvidia0", "nvidia1")),
        ("docker run --gpus device=GPU-bbbb vllm", ("nvidia1",)),
        ("docker run --gpus 1 vllm", ("nvidia0",)),
        ("docker run --gpus all -e CUDA_VISIBLE_DEVICES=1 vllm", ("nvidia1",)),
        ("docker run --gpus all --env=CUDA_VISIBLE_DEVICES vllm", ("nvidia0",)),
        ("docker run --runtime nvidia -e NVIDIA_VISIBLE_DEVICES=1 vllm", ("nvidia1",)),
        ("podman run --device nvidia.com/gpu=0 vllm", ("nvidia0",)),
        ("docker run --device /dev/kfd --device=/dev/dri vllm", ("amd0", "amd1")),
        ("docker run --device /dev/kfd -e HIP_VISIBLE_DEVICES=1 vllm", ("amd1",)),
        ("docker run --gpus all image llama-server --device CUDA1", ("nvidia1",)),
        ("docker run --gpus all image llama-server -ngl 0", ()),
    ],
)
def test_a_container_uses_what_it_is_given(words: str, pinned: tuple[str, ...]) -> None:
    """The router's variables do not reach into it, so nothing of it is left open."""
    env = {"CUDA_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "0"}
    assert pinned_devices(words.split(), env, view(N0, N1, A0, A1)) == pinned


def test_unknown_names_are_taken_by_number() -> None:
    """A server that was not asked for its devices, or is older than the list."""
    assert pinned_devices((*SERVER, "-dev", "Vulkan1"), {}, view(N0, N1)) == ("nvidia1",)
