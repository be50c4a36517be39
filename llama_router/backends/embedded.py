"""llama.cpp's own HTTP server, from the ``xllamacpp`` wheel: for machines without llama-server.

``python -m llama_router.backends.embedded`` takes every flag of ``llama-server`` and
serves the same HTTP interface: both the command-line parser and the server are
llama.cpp's own code. Like llama-server it speaks the child protocol when the
environment variable ``LLAMA_SERVER_ROUTER_PORT`` is set; otherwise it ignores stdin.

SIGTERM and SIGINT end it at once, also while it loads or streams, with exit code 0.

Time to the first answer matters here: this module imports only what it needs, and
nothing else of llama-router.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import struct
import sys

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import BinaryIO, Protocol

    class Model(Protocol):
        """The part of ``common_params_model`` that is used here."""

        path: str

    class CommonParams(Protocol):
        """The part of ``common_params`` that is used here; xllamacpp has no type information."""

        model: Model
        port: int
        n_predict: int
        n_ctx: int
        n_batch: int
        n_ubatch: int
        endpoint_metrics: bool


ROUTER_PORT_VARIABLE = "LLAMA_SERVER_ROUTER_PORT"
EXIT_COMMAND = b"cmd_router_to_child:exit"

PARSER_SYMBOL = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
"""``common_params_parse(int, char **, common_params &, llama_example, void (*)(int, char **))``."""
LLAMA_EXAMPLE_SERVER = 12
"""Value of the enum in llama.cpp's ``common/common.h``; every start checks that it still fits."""
DEFAULT_PORT = 8080
"""llama-server's; a new `CommonParams` has 0, any free port."""

LIBRARY_PACKAGES = {
    "libgomp.so.1": "'apt install libgomp1' (Debian, Ubuntu), 'dnf install libgomp' (Fedora)",
    "libstdc++.so.6": "'apt install libstdc++6' (Debian, Ubuntu), 'dnf install libstdc++' (Fedora)",
}
"""The shared libraries that the wheel expects of the system and a small one may lack."""
_NO_LIBRARY = ": cannot open shared object file"
"""What the dynamic loader says behind the name of a library that it does not find."""


class UnusableError(Exception):
    """xllamacpp is missing, or its version has no parser that can be called."""


def main(arguments: Sequence[str]) -> int:
    """Serve as ``llama-server`` would with the same *arguments*.

    Does not return once the model is loaded: a signal or the router ends the
    process. ``--help`` and ``--version`` end it too, with exit code 0.

    Returns:
        The exit code of a failed start, which stderr explains.
    """
    end_at_once_on_signals()
    try:
        xllamacpp = load_xllamacpp()
        params = parse(xllamacpp, arguments)
    except UnusableError as exc:
        return _fail(str(exc))
    if params is None:
        return 1  # llama.cpp's parser has printed the reason
    if not params.model.path:
        return _fail("a model file is needed: -m FILE (this server does not download models)")
    commands = take_over_stdin() if ROUTER_PORT_VARIABLE in os.environ else None
    try:
        # Returns when the model is loaded and keeps the interpreter to itself until then;
        # its own threads answer HTTP and print the child protocol's lines.
        _server = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as exc:
        return _fail(f"llama.cpp's server could not start; its log has the reason ({exc})")
    if commands is None:
        while True:
            signal.pause()
    wait_for_exit_command(commands)
    # Returning would destroy the server, which waits up to 30 s for open streams.
    os._exit(0)


def _fail(reason: str) -> int:
    sys.stderr.write(f"error: {reason}\n")
    return 1


def end_at_once_on_signals() -> None:
    """Make SIGTERM and SIGINT end the process at once, with exit code 0.

    A handler in Python would not run before the model is loaded. C's ``quick_exit``
    may be a signal handler itself (C11, 7.14.1.1). It gets the signal's number as exit
    code, but calls the registered function first: that is ``_exit`` with a null pointer,
    so 0. With a C library without these functions the default action applies: as
    prompt, but reported as an end by signal.
    """
    libc = ctypes.CDLL(None)
    handler = None
    try:
        exit_now = ctypes.cast(libc._exit, ctypes.c_void_p)  # noqa: SLF001 -- C's own name
        if libc.__cxa_at_quick_exit(exit_now, None) == 0:  # noqa: SLF001 -- glibc's own name
            handler = ctypes.cast(libc.quick_exit, ctypes.c_void_p)
    except AttributeError:
        pass
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
        if handler is not None:
            libc.signal(int(number), handler)


def load_xllamacpp() -> ModuleType:
    """Import the extension module alone: the rest of its package costs 12 ms.

    Raises:
        UnusableError: if it is not installed, or cannot be loaded on this machine.
    """
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None:
        raise UnusableError("xllamacpp is not installed; install llama-router[embedded]")
    if spec.name not in sys.modules:
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # not executed
    try:
        return importlib.import_module("xllamacpp.xllamacpp")
    except ImportError as exc:
        raise UnusableError(f"xllamacpp cannot be loaded: {why_not_loaded(str(exc))}") from exc


def why_not_loaded(message: str) -> str:
    """Return the reason in the *message* of an `ImportError`; with the remedy, if it is a library.

    `backends.diagnosis` passes on what is said of a library.
    """
    library, found, _ = message.partition(_NO_LIBRARY)
    if not found:
        return message
    how = LIBRARY_PACKAGES.get(library, "the package of your system that has it")
    return f"the shared library {library} is missing. Install it: {how}"


def parse(xllamacpp: ModuleType, arguments: Sequence[str]) -> CommonParams | None:
    """Return the ``CommonParams`` that llama.cpp's own parser makes of *arguments*.

    Environment variables ``LLAMA_ARG_*`` count, too. ``--help`` and flags like it
    end the process.

    Returns:
        The parameters, or None after the parser has printed the mistakes on stderr.

    Raises:
        UnusableError: if this version of xllamacpp does not fit.
    """
    try:
        parser = getattr(ctypes.CDLL(xllamacpp.__file__), PARSER_SYMBOL)
    except (OSError, AttributeError) as exc:
        raise _unfit(f"no command-line parser: {exc}") from exc
    parser.restype = ctypes.c_bool
    parser.argtypes = [
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_char_p),
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
    ]

    def fill(params: CommonParams, words: Sequence[str]) -> bool:
        argv = ["llama-server", *words]
        c_argv = (ctypes.c_char_p * (len(argv) + 1))(*map(os.fsencode, argv), None)
        address = address_of_common_params(params)
        return bool(parser(len(argv), c_argv, address, LLAMA_EXAMPLE_SERVER, None))

    # --metrics exists for the server only, so a changed enumeration shows here.
    probe: CommonParams = xllamacpp.CommonParams()
    understood = fill(probe, ["-m", "x", "--port", "54321", "-c", "777", "--metrics"])
    values = (probe.model.path, probe.port, probe.n_ctx, probe.endpoint_metrics)
    if not understood or values != ("x", 54321, 777, True):
        raise _unfit("its parser and its parameters do not agree")

    params: CommonParams = xllamacpp.CommonParams()
    params.port = DEFAULT_PORT
    return params if fill(params, arguments) else None


def address_of_common_params(params: CommonParams) -> int:
    """Return the address of the C++ ``common_params`` inside the Python object around it.

    It is held by value, and begins with four numbers that Python can set: unique values
    in them mark the address.

    Raises:
        UnusableError: if the mark is not found exactly once.
    """
    saved = params.n_predict, params.n_ctx, params.n_batch, params.n_ubatch
    mark = (0x11223344, 0x22334455, 0x33445566, 0x44556677)
    params.n_predict, params.n_ctx, params.n_batch, params.n_ubatch = mark
    memory = ctypes.string_at(id(params), type(params).__basicsize__)
    params.n_predict, params.n_ctx, params.n_batch, params.n_ubatch = saved
    marked = struct.pack("=4i", *mark)
    if memory.count(marked) != 1:
        raise _unfit("its parameters have an unknown layout")
    return id(params) + memory.index(marked)


def _unfit(reason: str) -> UnusableError:
    return UnusableError(
        "this version of xllamacpp cannot be used; install the one that "
        f"llama-router[embedded] asks for ({reason})"
    )


def take_over_stdin() -> BinaryIO:
    """Return the stream of the router's commands; the server gets a stdin that stays silent.

    The server inside xllamacpp reads commands, too, but on exit it ends only itself,
    not the process.
    """
    try:
        commands = os.fdopen(os.dup(0), "rb")
    except OSError:  # closed: no command can come
        commands = open(os.devnull, "rb")  # noqa: PTH123, SIM115 -- pathlib is slow to import
    silent, _never_closed = os.pipe()
    os.dup2(silent, 0)
    return commands


def wait_for_exit_command(commands: BinaryIO) -> None:
    """Return on the exit command, or at end of file: the router is gone."""
    for line in commands:
        if line.strip() == EXIT_COMMAND:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
