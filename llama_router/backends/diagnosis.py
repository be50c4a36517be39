"""Why a backend's process ended: from its exit status and its last lines. Pure.

What programs print is nobody's contract: the patterns were taken from the output of
llama-server, vLLM, PyTorch, Transformers, the dynamic loader and Python itself. A line
that none of them fits costs nothing: the exit is then told as it was before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from signal import Signals
from typing import Final

import attrs

from ..errors.causes import Cause

#: How many of the last lines are worth looking at; a Python traceback of vLLM has some 150.
LOOK_BACK_LINES: Final = 300

# Whoever is killed by a signal said nothing about it: only lines shortly before may fit.
_LOOK_BACK_ON_SIGNAL: Final = 60

# Quoted at most.
_EVIDENCE_LINES: Final = 3
_LINE_CHARS: Final = 400

# A shell reports a program that a signal killed with this much more. Source: POSIX.1-2017,
# Shell and Utilities, section 2.8.2.
_SHELL_SIGNAL: Final = 128

#: Exit statuses of a process that SIGKILL ended; only these may be the kernel's doing.
KILLED: Final = frozenset((-Signals.SIGKILL, _SHELL_SIGNAL + Signals.SIGKILL))

# Source: the same.
_SHELL_FAILURES: Final = {
    126: "a program that its script calls cannot be executed",
    127: "a program that its script calls does not exist",
}


#: What a second start of the same command would meet again.
HOPELESS: Final = frozenset(
    (
        Cause.UNKNOWN_ARCHITECTURE,
        Cause.WRONG_FLAG,
        Cause.BROKEN_MODEL,
        Cause.LIBRARY_MISSING,
        Cause.MODULE_MISSING,
        Cause.FILE_MISSING,
        Cause.COMMAND_MISSING,
        Cause.ILLEGAL_INSTRUCTION,
    )
)


@attrs.frozen
class Explanation:
    """Why a process ended.

    Attributes:
        cause: For programs.
        sentence: For people: what happened and what to do; empty if it is not known.
        evidence: The lines that say so, oldest first.
    """

    cause: Cause
    sentence: str = ""
    evidence: tuple[str, ...] = ()


@attrs.frozen
class _Rule:
    """Lines that give a cause away.

    Attributes:
        cause: Which.
        sentence: May contain ``{}``, for what the pattern's group found.
        hints: In lower case; a text with none of them is not searched: that is quicker.
        pattern: What such a line has; compiled when it is first needed, for most never are.
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


# The first rule that fits decides: the more certain it is, the further up.
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
        "a shared library is missing or too old: {}; install it, or name its folder in env "
        "(LD_LIBRARY_PATH)",
        ".so|symbol|glibc|cxxabi",
        r"error while loading shared libraries: ([^:]+)",
        r"([\w.+-]+\.so[.\d]*): cannot open shared object file",
        r"version [`']((?:GLIBC|GLIBCXX|CXXABI)_[\w.]+)' not found",
        r"(undefined symbol: \w+)",
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
        "it may not use something that it needs; see that the user whom the router runs as may "
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

# Harmless lines that look like a cause: programs warn of what they can do without. Those of
# vLLM and of llama-server's logger ("0.00.003.860 W srv ...").
_WARNING: Final = re.compile(r"\bWARN(?:ING)?\b|^[\d.]+ [WID] |\bDEBUG\b")

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


def explain(
    returncode: int, lines: Sequence[str], *, stopped: bool = False, oom_killed: bool = False
) -> Explanation:
    """Say why a process ended.

    Args:
        returncode: As in `subprocess.Popen.returncode`; more than 128 is read as a shell's
            report of a signal.
        lines: Its last lines of output, oldest first.
        stopped: Whether the router told it to end.
        oom_killed: Whether the kernel says that it killed this process, or one in its
            control group meanwhile, for want of memory.
    """
    signum = _signal(returncode)
    crashed = signum in _SIGNALS
    if stopped:
        return Explanation(Cause.STOPPED, "the router told it to end")
    if signum is not None and not crashed:
        return _killed(signum, oom_killed=oom_killed)
    if returncode == 0:
        return Explanation(
            Cause.ENDED,
            "it ended by itself, as if its work was done; a backend must stay in the foreground "
            "and go on serving",
        )
    look_back = _LOOK_BACK_ON_SIGNAL if crashed else LOOK_BACK_LINES
    return _from_lines(lines[-look_back:]) or _from_status(returncode, signum)


def _killed(signum: Signals, *, oom_killed: bool) -> Explanation:
    if signum is not Signals.SIGKILL:
        return Explanation(Cause.KILLED, f"somebody ended it with {signum.name}")
    if oom_killed:
        return Explanation(Cause.OOM_KILLED, _OOM)
    return Explanation(
        Cause.KILLED,
        "somebody killed it with SIGKILL; that is often the kernel when memory runs out: "
        "see journalctl -k",
    )


def _from_status(returncode: int, signum: Signals | None) -> Explanation:
    if signum is not None:
        cause, sentence = _SIGNALS[signum]
        return Explanation(cause, sentence + (_CRASH_HINT if cause is Cause.SEGFAULT else ""))
    if returncode in _SHELL_FAILURES:
        return Explanation(Cause.COMMAND_MISSING, _SHELL_FAILURES[returncode])
    return Explanation(Cause.UNKNOWN)


def _signal(returncode: int) -> Signals | None:
    """Return the signal that ended a process, also if a shell reports it."""
    number = -returncode if returncode < 0 else returncode - _SHELL_SIGNAL
    try:
        return Signals(number)
    except ValueError:
        return None


def _from_lines(lines: Sequence[str]) -> Explanation | None:
    shortened = [line[:_LINE_CHARS] for line in lines]
    text = "\n".join(shortened).lower()
    for rule in _RULES:
        if any(hint in text for hint in rule.hints) and (found := _apply(rule, shortened)):
            return found
    return None


def _apply(rule: _Rule, lines: Sequence[str]) -> Explanation | None:
    matches = list(_matches(rule, lines))
    if not matches:
        return None
    # The first is the root; programs repeat it while they unwind.
    _, first = matches[0]
    what = next((group for group in first.groups() if group is not None), "")
    evidence = dict.fromkeys(line for line, _ in matches)
    return Explanation(
        rule.cause,
        rule.sentence.replace("{}", what.strip()).replace("  ", " "),
        tuple(evidence)[:_EVIDENCE_LINES],
    )


def _matches(rule: _Rule, lines: Sequence[str]) -> Iterator[tuple[str, re.Match[str]]]:
    seen = set[str]()
    pattern = _compiled(rule.pattern)
    for line in lines:
        match = pattern.search(line)
        # The same again with another time or process in front says nothing new.
        if match is None or match[0] in seen or _WARNING.search(line):
            continue
        seen.add(match[0])
        yield line.strip(), match
