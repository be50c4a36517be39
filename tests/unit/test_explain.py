"""Why a backend ended, from real-life exits."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.backends.diagnosis import advice_on_probe, diagnose
from llama_router.errors.causes import PERMANENT_CAUSES, Cause

# --- llama-server ---------------------------------------------------------------------

DAMAGED = """\
0.00.005.483 I srv          init: loading model
0.00.006.376 E llama_model_load: error loading model: tensor 'output.weight' data is not within \
the file bounds, model is corrupted or incomplete
0.00.006.394 E llama_model_load_from_file_impl: failed to load model
0.00.006.698 E llama_model_load: error loading model: tensor 'output.weight' data is not within \
the file bounds, model is corrupted or incomplete
0.00.006.782 E srv    load_model: failed to load model, '/models/cut.gguf'
0.00.007.467 E srv          init: exiting due to model loading error"""

NOT_GGUF = """\
gguf_init_from_reader: invalid magic characters: '<!DO', expected 'GGUF'
llama_model_load: error loading model: llama_model_loader: failed to load model from page.gguf
main: exiting due to model loading error"""

HEADER_CUT = """\
0.00.006.611 E read: string length 20 exceeds remaining file size 19 bytes
0.00.006.636 E gguf_init_from_reader: failed to read key-value pairs
0.00.006.670 E llama_model_load: error loading model: llama_model_loader: failed to load model"""

NO_FILE = """\
0.00.005.433 E gguf_init_from_file: failed to open GGUF file '/models/invalid magic.gguf' \
(No such file or directory)
0.00.005.915 E srv    load_model: failed to load model, '/models/invalid magic.gguf'"""

UNREADABLE = """\
0.00.005.433 E gguf_init_from_file: failed to open GGUF file '/models/a.gguf' (Permission denied)
0.00.005.915 E srv    load_model: failed to load model, '/models/a.gguf'"""

UNKNOWN_ARCHITECTURE = """\
llama_model_load: error loading model: error loading model architecture: unknown model \
architecture: 'newthing2'
llama_model_load_from_file_impl: failed to load model
srv    load_model: failed to load model, '/models/newthing.gguf'"""

GPU_FULL = """\
load_tensors: loading model tensors, this can take a while... (mmap = true)
ggml_backend_cuda_buffer_type_alloc_buffer: allocating 35533.34 MiB on device 0: cudaMalloc \
failed: out of memory
alloc_tensor_range: failed to allocate CUDA0 buffer of size 37259404800
llama_model_load: error loading model: unable to allocate CUDA0 buffer
llama_model_load_from_file_impl: failed to load model"""

GPU_FULL_LATER = """\
slot launch_slot_: id  0 | task 0 | processing task
CUDA error: out of memory
  current device: 1, in function alloc at ggml/src/ggml-cuda/ggml-cuda.cu:450
  cuMemCreate(&handle, reserve_size, &prop, 0)
ggml/src/ggml-cuda/ggml-cuda.cu:75: CUDA error"""

VULKAN_FULL = """\
ggml_vulkan: Device memory allocation of size 1073741824 failed.
ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory"""

TAKEN = """\
0.00.003.860 W srv          init: security: no API key is set and CORS allows all origins
0.00.003.941 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080
0.00.004.070 E srv          init: exiting due to HTTP server error"""

NO_SUCH_FLAG = "error: invalid argument: --mlock"

BAD_VALUE = """\
error while handling argument "--ctx-size": stoi

usage:
-c,    --ctx-size N                     size of the prompt context"""

NO_LIBRARY = (
    "/opt/llama/llama-server: error while loading shared libraries: libcublas.so.12: cannot open "
    "shared object file: No such file or directory"
)

OLD_LIBRARY = (
    "./llama-server: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found "
    "(required by ./llama-server)"
)

ASSERTION = """\
/src/llama.cpp/ggml/src/ggml.c:3020: GGML_ASSERT(ggml_can_mul_mat(a, b)) failed
[New LWP 4711]"""

# --- vLLM and other Python programs ----------------------------------------------------

VLLM_FULL = """\
(EngineCore_DP0 pid=17374) ERROR 09-28 15:47:24 [core.py:718] EngineCore failed to start.
(EngineCore_DP0 pid=17374) ERROR 09-28 15:47:24 [core.py:718] Traceback (most recent call last):
(EngineCore_DP0 pid=17374) ERROR 09-28 15:47:24 [core.py:718]     raise ValueError(
(EngineCore_DP0 pid=17374) ERROR 09-28 15:47:24 [core.py:718] ValueError: Free memory on device \
(3.22/4.0 GiB) on startup is less than desired GPU memory utilization (0.9, 3.6 GiB).
(APIServer pid=17000) RuntimeError: Engine core initialization failed. See root cause above. \
Failed core proc(s): {}"""

TORCH_FULL = """\
Traceback (most recent call last):
  File "/usr/lib/python3/dist-packages/vllm/worker.py", line 10, in load
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total \
capacity of 79.10 GiB of which 19.88 MiB is free."""

VLLM_TAKEN = """\
WARNING 10-10 10:22:58 _custom_ops.py:18] Failed to import from vllm._C with \
ImportError('libcuda.so.1: cannot open shared object file: No such file or directory')
INFO 10-10 10:23:00 api_server.py:526] vLLM API server version 0.6.1
Traceback (most recent call last):
    temp_socket.bind(("", args.port))
OSError: [Errno 98] Address already in use"""

VLLM_FLAG = """\
usage: vllm serve [model_tag] [options]
vllm: error: unrecognized arguments: --max-model-length 4096"""

VLLM_ARCHITECTURE = (
    "ValueError: Model architectures ['NewThingForCausalLM'] are not supported for now. "
    "Supported architectures: dict_keys(['LlamaForCausalLM'])"
)

TRANSFORMERS_ARCHITECTURE = (
    "ValueError: The checkpoint you are trying to load has model type `newthing` but Transformers "
    "does not recognize this architecture."
)

HALF_SAFETENSORS = """\
Traceback (most recent call last):
safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer"""

GATED = """\
huggingface_hub.errors.GatedRepoError: 401 Client Error.
Access to model meta-llama/Llama-3.1-8B is restricted. You must have access to it."""

NO_MODULE = """\
Traceback (most recent call last):
  File "serve.py", line 1, in <module>
ModuleNotFoundError: No module named 'vllm'"""

NO_SCRIPT = "python3: can't open file '/srv/serve.py': [Errno 2] No such file or directory"

NO_DRIVER = """\
RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"""

ANY_TRACEBACK = """\
(EngineCore_0 pid=9) ERROR 09-28 15:47:24 [core.py:718] Traceback (most recent call last):
(EngineCore_0 pid=9) ERROR 09-28 15:47:24 [core.py:718]   File "a.py", line 1, in f
(EngineCore_0 pid=9) ERROR 09-28 15:47:24 [core.py:718] KeyError: 'rope_scaling'
(APIServer pid=8) RuntimeError: Engine core initialization failed. See root cause above."""

EXITS = [
    (1, DAMAGED, Cause.BROKEN_MODEL, "output.weight"),
    (1, NOT_GGUF, Cause.BROKEN_MODEL, "expected 'GGUF'"),
    (1, HEADER_CUT, Cause.BROKEN_MODEL, "exceeds remaining file size"),
    (1, NO_FILE, Cause.FILE_MISSING, "No such file"),
    (1, UNREADABLE, Cause.PERMISSION, "Permission denied"),
    (1, UNKNOWN_ARCHITECTURE, Cause.UNKNOWN_ARCHITECTURE, "newthing2"),
    (-11, UNKNOWN_ARCHITECTURE, Cause.UNKNOWN_ARCHITECTURE, "newthing2"),
    (1, GPU_FULL, Cause.GPU_OUT_OF_MEMORY, "35533.34 MiB"),
    (-6, GPU_FULL_LATER, Cause.GPU_OUT_OF_MEMORY, "CUDA error: out of memory"),
    (1, VULKAN_FULL, Cause.GPU_OUT_OF_MEMORY, "ErrorOutOfDeviceMemory"),
    (1, TAKEN, Cause.PORT_IN_USE, "port: 8080"),
    (1, NO_SUCH_FLAG, Cause.WRONG_FLAG, "--mlock"),
    (1, BAD_VALUE, Cause.WRONG_FLAG, "--ctx-size"),
    (127, NO_LIBRARY, Cause.LIBRARY_MISSING, "libcublas.so.12"),
    (1, OLD_LIBRARY, Cause.LIBRARY_MISSING, "GLIBC_2.38"),
    (-6, ASSERTION, Cause.ASSERTION, "ggml_can_mul_mat"),
    (1, VLLM_FULL, Cause.GPU_OUT_OF_MEMORY, "3.22/4.0 GiB"),
    (1, TORCH_FULL, Cause.GPU_OUT_OF_MEMORY, "19.88 MiB"),
    (1, VLLM_TAKEN, Cause.PORT_IN_USE, "Errno 98"),
    (2, VLLM_FLAG, Cause.WRONG_FLAG, "--max-model-length"),
    (1, VLLM_ARCHITECTURE, Cause.UNKNOWN_ARCHITECTURE, "NewThingForCausalLM"),
    (1, TRANSFORMERS_ARCHITECTURE, Cause.UNKNOWN_ARCHITECTURE, "newthing"),
    (1, HALF_SAFETENSORS, Cause.BROKEN_MODEL, "MetadataIncompleteBuffer"),
    (1, GATED, Cause.HUB_REFUSED, "Llama-3.1-8B"),
    (1, NO_MODULE, Cause.MODULE_MISSING, "vllm"),
    (2, NO_SCRIPT, Cause.FILE_MISSING, "/srv/serve.py"),
    (1, NO_DRIVER, Cause.GPU_UNUSABLE, "NVIDIA driver"),
    (1, "terminate called after throwing an instance of 'std::bad_alloc'", Cause.OUT_OF_MEMORY, ""),
    (1, ANY_TRACEBACK, Cause.PYTHON_ERROR, "KeyError: 'rope_scaling'"),
]


@pytest.mark.parametrize(("returncode", "output", "cause", "quoted"), EXITS)
def test_output_of_real_programs(returncode: int, output: str, cause: Cause, quoted: str) -> None:
    """The cause is found, and the lines that say so are quoted, each once."""
    found = diagnose(returncode, output.splitlines())
    assert found.cause is cause
    assert found.sentence
    assert quoted in " ".join(found.evidence)
    assert 1 <= len(found.evidence) <= 3
    assert len(set(found.evidence)) == len(found.evidence)
    assert "{" not in found.sentence


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("xllamacpp is not installed; install llama-router[embedded]", Cause.COMMAND_MISSING),
        ("this version of xllamacpp cannot be used; install the one", Cause.COMMAND_MISSING),
        ("xllamacpp cannot be loaded: dynamic module has no init", Cause.COMMAND_MISSING),
        (
            "xllamacpp cannot be loaded: libgomp.so.1: cannot open shared object file",
            Cause.LIBRARY_MISSING,
        ),
        (
            "xllamacpp cannot be loaded: the shared library libgomp.so.1 is missing. Install it",
            Cause.LIBRARY_MISSING,
        ),
    ],
)
def test_an_unusable_embedded_server_is_no_reason_for_further_starts(
    line: str, cause: Cause
) -> None:
    """Each of its own refusals has a cause that repetition does not change."""
    assert diagnose(1, [f"error: {line}"]).cause is cause
    assert cause in PERMANENT_CAUSES


@pytest.mark.parametrize(
    ("returncode", "cause", "words"),
    [
        (-9, Cause.KILLED, "journalctl -k"),
        (-15, Cause.KILLED, "SIGTERM"),
        (143, Cause.KILLED, "SIGTERM"),
        (-11, Cause.SEGFAULT, "SIGSEGV"),
        (139, Cause.SEGFAULT, "SIGSEGV"),
        (-7, Cause.SEGFAULT, "SIGBUS"),
        (-4, Cause.ILLEGAL_INSTRUCTION, "processor"),
        (-6, Cause.ASSERTION, "SIGABRT"),
        (-31, Cause.PERMISSION, "SystemCallFilter"),
        (0, Cause.ENDED, "foreground"),
        (126, Cause.COMMAND_MISSING, "cannot be executed"),
        (127, Cause.COMMAND_MISSING, "does not exist"),
    ],
)
def test_the_status_alone(returncode: int, cause: Cause, words: str) -> None:
    """Where no line helps, the status does, also one that a shell passes on."""
    found = diagnose(returncode, ["llama_perf: eval time = 1 ms"])
    assert (found.cause, found.evidence) == (cause, ())
    assert words in found.sentence


def test_sources_that_a_debugger_misses_are_no_missing_files() -> None:
    """llama.cpp lets gdb print where it aborted, and gdb looks for the sources of libraries."""
    lines = ["58\t../sysdeps/nptl/start.h: No such file or directory.", "[Inferior 1 detached]"]
    assert diagnose(-6, lines).cause is Cause.ASSERTION
    assert diagnose(1, ["m.gguf: No such file or directory"]).cause is Cause.FILE_MISSING


def test_what_nobody_understands_stays_unknown() -> None:
    """No guess is better than a wrong one."""
    assert diagnose(3, ["boom", "srv  update_slots: all slots are idle"]).cause is Cause.UNKNOWN


@pytest.mark.parametrize("returncode", [-9, 137])
def test_the_kernel_is_believed(returncode: int) -> None:
    """With the kernel's word, SIGKILL is its out-of-memory killer."""
    found = diagnose(returncode, ["fine"], oom_killed=True)
    assert found.cause is Cause.OOM_KILLED
    assert "memory ran out" in found.sentence


def test_an_oom_kill_elsewhere_explains_no_exit_code() -> None:
    """A process that exited by itself was not the one that the kernel killed."""
    assert diagnose(1, [NO_SUCH_FLAG], oom_killed=True).cause is Cause.WRONG_FLAG


@pytest.mark.parametrize("returncode", [0, 1, -9, -15])
def test_our_own_signal_comes_first(returncode: int) -> None:
    """However a backend takes it, being told to end is why it ended."""
    assert diagnose(returncode, GPU_FULL.splitlines(), stopped=True).cause is Cause.STOPPED


def test_old_trouble_does_not_explain_a_crash() -> None:
    """A request that failed long before a crash is not its cause."""
    lines = [*GPU_FULL_LATER.splitlines(), *["srv  log_server_r: done request"] * 100]
    assert diagnose(-11, lines).cause is Cause.SEGFAULT


def test_the_root_of_several_errors_is_told() -> None:
    """What failed first is named in the sentence, what followed from it is not."""
    found = diagnose(1, ["KeyError: 'a'", "RuntimeError: worker failed"])
    assert "KeyError: 'a'" in found.sentence
    assert "worker" not in found.sentence


def test_a_warning_is_not_a_cause() -> None:
    """Programs also tell what they can do without."""
    lines = [
        "WARNING 10-10 10:22:58 ImportError('libcuda.so.1: cannot open shared object file')",
        "0.00.003.860 W srv init: failed to open file 'template.jinja': no such file or directory",
    ]
    assert diagnose(1, lines).cause is Cause.UNKNOWN


@given(st.integers(-80, 300), st.lists(st.text(max_size=50), max_size=20), st.booleans())
def test_it_never_fails(returncode: int, lines: list[str], oom_killed: bool) -> None:  # noqa: FBT001 -- hypothesis passes by position
    """Whatever a program prints, and however it ends, there is an answer."""
    found = diagnose(returncode, lines, oom_killed=oom_killed)
    assert found.cause in Cause
    assert all(len(line) <= 400 for line in found.evidence)


def test_much_output_is_judged_quickly() -> None:
    """Neither many lines nor long ones hold anybody up; the worst have every hint in them."""
    hints = "allocate error: option gguf tensor cuda device architecture .so denied no such file "
    lines = [hints * 200] * 300
    begun_s = time.process_time()
    diagnose(1, lines)
    assert time.process_time() - begun_s < 0.5


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("404", "health_endpoint"),
        ("405", "health_endpoint"),
        ("401", "a key"),
        ("403", "a key"),
        ("307", "redirects"),
        ("204", "only 200 counts"),
        ("400", "TLS"),
        ("500", "its output"),
        ("503", "ready_timeout_s"),
        ("Connection refused", "ready_timeout_s"),
        ("not an HTTP answer: b'\\x15\\x03'", "HTTP"),
    ],
)
def test_each_answer_to_a_probe_but_200_has_its_advice(result: str, words: str) -> None:
    """A backend that is never ready is mostly a wrong path, a key, or a redirect."""
    assert words in advice_on_probe(result)


def test_a_probe_that_says_nothing_gets_no_advice() -> None:
    """No guess is better than a wrong one."""
    assert advice_on_probe("it has not been probed yet") == ""
