"""Diagnosis of a backend's exit: its cause, from the exit status and the last lines. Pure.

No program promises the wording of its output: the patterns were taken from the output of
llama-server, vLLM, PyTorch, Transformers, the dynamic loader and Python itself. If none of them
matches, the exit status alone is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from signal import Signals
from typing import Final

import attrs

from ..errors.causes import Cause

#: Number of last lines that are examined; a Python traceback of vLLM has some 150.
EXAMINED_LINES: Final = 300

# A process prints nothing when a signal kills it: only the lines shortly before are relevant.
_EXAMINED_LINES_ON_SIGNAL: Final = 60

# The most lines that are quoted, and the most characters of each.
_EVIDENCE_LINES: Final = 3
_LINE_CHARS: Final = 400

# Added by a shell to the number of the signal that killed a program. Source: POSIX.1-2017,
# Shell and Utilities, section 2.8.2.
_SHELL_SIGNAL: Final = 128

#: Exit statuses of a process that SIGKILL ended; the kernel's OOM killer causes only these.
SIGKILL_STATUSES: Final = frozenset((-Signals.SIGKILL, _SHELL_SIGNAL + Signals.SIGKILL))

# Source: the same.
_SHELL_FAILURES: Final = {
    126: "a program that its script calls cannot be executed",
    127: "a program that its script calls does not exist",
}


#: Remedies for a backend that is never ready, by the beginning of the result of its last probe.
_PROBE_ADVICE: Final = {
    "503|429|Connection refused|no answer": "if it only needs longer, raise ready_timeout_s",
    "401|403|407": "it wants a key there; start it without one (only the router connects to it), "
    "or set health_endpoint to a path that needs none",
    "404|405|406|410|501": "set health_endpoint to a path that answers 200 to a GET",
    "400|421|426": "it refuses a plain HTTP request to 127.0.0.1; start it without TLS and "
    "without a check of the host, or set health_endpoint to another path",
    r"3\d\d": "it redirects; set health_endpoint to the path that the redirect leads to",
    r"2\d\d": "only 200 counts; set health_endpoint to a path that answers so",
    r"[45]\d\d": "its output may say why; set health_endpoint to a path that answers 200",
    "not an HTTP answer|closed without": "it must speak HTTP on $port, without TLS",
}


@attrs.frozen
class Diagnosis:
    """The cause of a process's exit.

    Attributes:
        cause: Machine-readable.
        sentence: The reason and a remedy; empty if unknown.
        evidence: The lines of output that prove it, oldest first.
    """

    cause: Cause
    sentence: str = ""
    evidence: tuple[str, ...] = ()


@attrs.frozen
class _Rule:
    """A pattern of lines that prove a cause.

    Attributes:
        cause: The cause.
        sentence: The reason and a remedy; ``{}`` stands for the match of the pattern's group.
        hints: In lower case; a text with none of them is not searched, which is quicker.
        pattern: A regular expression; compiled on first use, since most are never used.
    """

    cause: Cause
    sentence: str
    hints: tuple[str, ...]
    pattern: str


def _rule(cause: Cause, sentence: str, hints: str, *patterns: str) -> _Rule:
    return _Rule(cause, sentence, tuple(hints.split("|")), "|".join(patterns))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# The first rule that matches decides, so the most certain ones come first.
_RULES: Final = (
    _rule(
        Cause.GPU_OUT_OF_MEMORY,
        "the GPU has not enough free memory; use a smaller context (--ctx-size, "
        "--max-model-len), fewer layers on the GPU (--n-gpu-layers) or a smaller quantization, "
        "or free what other processes hold there",
        "out of memory|outofmemory|outofdevicememory|buffer|alloc_failed|cache blocks|kv cache"
        "|free memory on device|hipmalloc",
        r"(?:cuda|hip)\w*(?: error)?[^a-z]*(?:failed: )?out of memory",
        r"torch\.(?:\w+\.)*OutOfMemoryError|ErrorOutOfDeviceMemory|CUBLAS_STATUS_ALLOC_FAILED",
        r"(?:unable|failed) to allocate (?:CUDA|ROCm|HIP|Vulkan|SYCL|Metal)\w* buffer",
        r"(?:cuda|hip)Malloc failed",
        r"Free memory on device.* is less than desired GPU memory utilization",
        r"No available memory for the cache blocks|larger than the available KV cache memory",
    ),
    _rule(
        Cause.PORT_IN_USE,
        "its address or port is taken by another program; a command should leave the choice of "
        "the port to the router, with $port",
        "address already in use|bind|eaddrinuse|already in use",
        r"address already in use|EADDRINUSE|port \d+ is already (?:in use|allocated)",
        r"could(?: not|n't) bind (?:to )?(?:HTTP )?(?:server )?(?:socket|port|address)",
    ),
    _rule(
        Cause.UNKNOWN_ARCHITECTURE,
        "this program does not know the architecture {} of the model; use a newer version of "
        "the program, or another program",
        "architecture|pre-tokenizer",
        r"unknown (?:model )?architecture:? *('[^']*')",
        r"Model architectures? (\[.*?\]).*not supported",
        r"model type (`[^`]*`) but Transformers does not recognize this architecture",
        r"unknown pre-tokenizer type: *('[^']*')",
    ),
    _rule(
        Cause.WRONG_FLAG,
        "its command line is wrong: {}; compare command and args with what the program's own "
        "--help says, for options come and go with versions",
        "argument|option|flag|invalid choice",
        r"error: (invalid argument: \S+)",
        r"(unrecognized (?:arguments?|options?):? .+)",
        r"((?:unknown|unexpected|invalid) (?:arguments?|options?|flags?):? ['\"-].*)",
        r"(error while handling argument (?!.*failed to open).+)",
        r"(the following arguments are required: .+)",
        r"(argument \S+: (?:invalid|expected|not allowed).*)",
        r"(expected value for argument.*)",
        r"(no such option: .+)",
    ),
    _rule(
        Cause.BROKEN_MODEL,
        "the model's file is damaged, incomplete, or not of a kind that this program reads; "
        "compare its size with that of its source, and fetch it again",
        "corrupt|bounds|magic|failed to read|remaining file size|safetensor|invalidheader"
        "|incompletebuffer|headertoo|end of file|tensor|gguf",
        r"model is corrupted|not within the file bounds|invalid magic char|bad magic number",
        r"gguf\w*: (?:failed to read|invalid|duplicated|tensor '[^']*' has|bad )",
        r"failed to read (?:magic|header|tensor|key-value)|exceeds remaining file size",
        r"SafetensorError|InvalidHeaderDeserialization|MetadataIncompleteBuffer|HeaderTooLarge",
        r"unexpected(?:ly reached)? end of file|wrong number of tensors|missing tensor",
        r"tensor '[^']*' (?:has wrong shape|has invalid|not found)",
    ),
    _rule(
        Cause.GPU_UNUSABLE,
        "it cannot use the GPU: {}; see whether nvidia-smi (or rocm-smi) works for the user that "
        "the router runs as, and whether the program was built for this card and driver",
        "cuda|device|nvidia driver|kernel image|hip",
        r"(no CUDA-capable device is detected)",
        r"(CUDA driver version is insufficient for CUDA runtime version)",
        r"(no kernel image is available for execution on the device)",
        r"(Failed to infer device type)|(Found no NVIDIA driver on your system)",
        r"(invalid device ordinal)|(error: invalid device: \S+)|(no ROCm-capable device is \w+)",
    ),
    _rule(
        Cause.LIBRARY_MISSING,
        "{}",  # backends/embedded.py knows the package
        "xllamacpp",
        r"error: (xllamacpp cannot be loaded: the shared library .+)",
    ),
    _rule(
        Cause.LIBRARY_MISSING,
        "a shared library is missing or too old: {}; install it, or name its folder in env "
        "(LD_LIBRARY_PATH)",
        ".so|symbol|glibc|cxxabi",
        r"error while loading shared libraries: ([^:]+)",
        r"([\w.+-]+\.so[.\d]*): cannot open shared object file",
        r"version [`']((?:GLIBC|GLIBCXX|CXXABI)_[\w.]+)' not found",
        r"(undefined symbol: \w+)",
    ),
    _rule(
        Cause.COMMAND_MISSING,
        "the embedded server cannot serve here: {}; install llama-router[embedded] as it is "
        "pinned, or install llama.cpp",
        "xllamacpp",
        r"error: (xllamacpp is not installed|xllamacpp cannot be loaded.*)",
        r"error: (this version of xllamacpp cannot be used)",
    ),
    _rule(
        Cause.MODULE_MISSING,
        "a Python package is missing: {}; the command may name another Python than the one "
        "that has it",
        "no module named|cannot import name",
        r"No module named ['\"]?([\w.]+)|(cannot import name .+)",
    ),
    _rule(
        Cause.HUB_REFUSED,
        "the model hub refuses access or does not have the model; for a gated one accept its "
        "terms there, and set HF_TOKEN in env",
        "gatedrepo|repositorynotfound|client error|is restricted|valid model identifier",
        r"GatedRepoError|RepositoryNotFoundError|Access to model \S+ is restricted",
        r"(?:401|403) Client Error|not a local folder and is not a valid model identifier",
    ),
    _rule(
        Cause.PERMISSION,
        "it may not use something that it needs; see that the user that the router runs as may "
        "read the files and folders, and that the unit's hardening allows them",
        "denied|not permitted|permissionerror|read-only file system",
        r"permission denied|PermissionError|operation not permitted|read-only file system",
    ),
    _rule(
        Cause.FILE_MISSING,
        "a file that it needs does not exist; check path and args, and cwd for relative names",
        "no such file|filenotfound|can't open file|failed to open|does not exist",
        r"no such file or directory|FileNotFoundError|can't open file",
        r"failed to open (?:GGUF )?file|(?:file|folder|directory|path) .*does not exist",
    ),
    _rule(
        Cause.OUT_OF_MEMORY,
        "this machine has not enough free memory for it; use a smaller model or context",
        "bad_alloc|allocate|memoryerror",
        r"std::bad_alloc|cannot allocate memory|MemoryError|ENOMEM",
        r"(?:unable|failed) to allocate (?:CPU\w* )?(?:buffer|memory)",
        r"failed to mmap|DefaultCPUAllocator: (?:can't|not enough)",
    ),
    _rule(
        Cause.ASSERTION,
        "a check inside the program failed: that is a mistake in it, or in the model's file; "
        "another version may do better",
        "assert|terminate called|panicked at",
        r"GGML_ASSERT\(|assertion .*failed|terminate called after throwing|panicked at",
    ),
    _rule(
        Cause.PYTHON_ERROR,
        "it ended with {}",
        "error: |exception: ",
        # vLLM's parent process reports its child's failure with an error of its own.
        r"(?:^|[\])] ?)((?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): "
        r"(?!Engine core initialization failed).+)",
    ),
)

# Harmless lines that look like a cause: warnings about optional parts, in the formats of vLLM
# and of llama-server's logger ("0.00.003.860 W srv ..."), and the sources that gdb misses when
# llama.cpp lets it print where it aborted.
_WARNING: Final = re.compile(
    r"\bWARN(?:ING)?\b|^[\d.]+ [WID] |\bDEBUG\b"
    r"|^(?:warning: )?\d+\s+\S+: No such file or directory\.?$"
)

_SIGNALS: Final = {
    Signals.SIGSEGV: (Cause.SEGFAULT, "it crashed (SIGSEGV: it used memory that is not its own)"),
    Signals.SIGBUS: (Cause.SEGFAULT, "it crashed (SIGBUS: often its model file became shorter)"),
    Signals.SIGFPE: (Cause.SEGFAULT, "it crashed (SIGFPE: an impossible calculation)"),
    Signals.SIGILL: (
        Cause.ILLEGAL_INSTRUCTION,
        "it was built for another kind of processor (SIGILL); use a build for this one",
    ),
    Signals.SIGABRT: (Cause.ASSERTION, "it gave up by itself (SIGABRT: a check in it failed)"),
    Signals.SIGSYS: (
        Cause.PERMISSION,
        "it used a forbidden system call (SIGSYS: see SystemCallFilter= of the unit)",
    ),
}
_CRASH_HINT: Final = "; another version of the program, or a model file fetched anew, may help"

_OOM: Final = (
    "the kernel killed it because memory ran out; use a smaller model or context, or allow more "
    "memory (MemoryMax= of the unit)"
)


def diagnose(
    returncode: int, lines: Sequence[str], *, stopped: bool = False, oom_killed: bool = False
) -> Diagnosis:
    """Return the cause of a process's exit.

    Args:
        returncode: As in `subprocess.Popen.returncode`; more than 128 is read as a shell's
            report of a signal.
        lines: Its last lines of output, oldest first.
        stopped: The router stopped it.
        oom_killed: The kernel killed this process, or one of its control group, because
            memory ran out.
    """
    signum = _signal(returncode)
    crashed = signum in _SIGNALS
    if stopped:
        return Diagnosis(Cause.STOPPED, "the router told it to end")
    if signum is not None and not crashed:
        return _killed(signum, oom_killed=oom_killed)
    if returncode == 0:
        return Diagnosis(
            Cause.ENDED,
            "it ended by itself, as if its work was done; a backend must stay in the foreground "
            "and go on serving",
        )
    examined = _EXAMINED_LINES_ON_SIGNAL if crashed else EXAMINED_LINES
    return _from_lines(lines[-examined:]) or _from_status(returncode, signum)


def advice_on_probe(result: str) -> str:
    """Return the remedy for a backend whose last health probe had *result*.

    Args:
        result: The status as digits, or the failure in words.

    Returns:
        The end of a message; empty if there is no remedy.
    """
    for pattern, advice in _PROBE_ADVICE.items():
        if re.match(pattern, result):
            return f"; {advice}"
    return ""


def _killed(signum: Signals, *, oom_killed: bool) -> Diagnosis:
    if signum is not Signals.SIGKILL:
        return Diagnosis(Cause.KILLED, f"another process ended it with {signum.name}")
    if oom_killed:
        return Diagnosis(Cause.OOM_KILLED, _OOM)
    return Diagnosis(
        Cause.KILLED,
        "it was killed with SIGKILL; that is often the kernel when memory runs out: "
        "see journalctl -k",
    )


def _from_status(returncode: int, signum: Signals | None) -> Diagnosis:
    if signum is not None:
        cause, sentence = _SIGNALS[signum]
        return Diagnosis(cause, sentence + (_CRASH_HINT if cause is Cause.SEGFAULT else ""))
    if returncode in _SHELL_FAILURES:
        return Diagnosis(Cause.COMMAND_MISSING, _SHELL_FAILURES[returncode])
    return Diagnosis(Cause.UNKNOWN)


def _signal(returncode: int) -> Signals | None:
    """Return the signal that ended a process or, as its shell reports, a child of it."""
    number = -returncode if returncode < 0 else returncode - _SHELL_SIGNAL
    try:
        return Signals(number)
    except ValueError:
        return None


def _from_lines(lines: Sequence[str]) -> Diagnosis | None:
    shortened = [line[:_LINE_CHARS] for line in lines]
    text = "\n".join(shortened).lower()
    for rule in _RULES:
        if any(hint in text for hint in rule.hints) and (found := _apply(rule, shortened)):
            return found
    return None


def _apply(rule: _Rule, lines: Sequence[str]) -> Diagnosis | None:
    matches = list(_matches(rule, lines))
    if not matches:
        return None
    # The first match is the root cause; programs repeat it while they unwind.
    _, first = matches[0]
    detail = next((group for group in first.groups() if group is not None), "")
    evidence = dict.fromkeys(line for line, _ in matches)
    return Diagnosis(
        rule.cause,
        rule.sentence.replace("{}", detail.strip()).replace("  ", " "),
        tuple(evidence)[:_EVIDENCE_LINES],
    )


def _matches(rule: _Rule, lines: Sequence[str]) -> Iterator[tuple[str, re.Match[str]]]:
    seen = set[str]()
    pattern = _compiled(rule.pattern)
    for line in lines:
        match = pattern.search(line)
        # The same match behind another time or process name is no further evidence.
        if match is None or match[0] in seen or _WARNING.search(line):
            continue
        seen.add(match[0])
        yield line.strip(), match
