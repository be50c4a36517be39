"""Compares estimates of memory with what llama.cpp reports, and prints the differences.

Run ``python -m bench memory`` from the repository, or ``python -m bench memory FILE...`` for
model files at hand. Without a file it makes models of many architectures that consist of a header
only. Each is loaded with several options by the embedded server, or by that of
``LLAMA_SERVER_BIN``, and the report in its output is compared with the estimate from the file.
"""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench import arguments, versions
from bench.programs import StartError
from llama_router.backends.environment import find_llama_server
from llama_router.models.gguf_reader import GgufError

from .architectures import SHAPES
from .comparison import TOLERANCE, compare

#: Options that change a part of what is needed, each measured for every model.
OPTIONS: Final = (
    "",
    "-c 4096",
    "-c 16384 -np 4",
    "-np 2",
    "-ctk q8_0 -ctv q8_0",
    "-ub 1024",
    "-fa off",
    "--swa-full",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.description = __doc__
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="GGUF files")
    arguments.add_choice(parser, "--only", SHAPES)
    parser.add_argument(
        "--args", action="append", metavar="WORDS", help="options of llama-server, repeatable"
    )


def run(options: argparse.Namespace) -> int:
    """Run the benchmark; return 1 if an estimate is too far off."""
    program = _program()
    all_options = [shlex.split(words) for words in options.args or OPTIONS]
    print("\n".join(versions.lines()))
    print(f"{'':38}{'weights':>16}{'cache':>16}{'compute':>16}   error")
    far = 0
    with tempfile.TemporaryDirectory("llama-router-bench-memory") as name:
        for title, path, own in _models(Path(name), options):
            for words in all_options:
                far += not _print(program, title, path, [*own, *words])
    print(f"MiB, estimated / reported; {far} are not measured, or off by more than {TOLERANCE:.0%}")
    return int(far > 0)


def _program() -> Sequence[str]:
    if path := os.environ.get("LLAMA_SERVER_BIN"):
        return (path,)
    program = find_llama_server()
    if program is None:
        raise ImportError("there is no llama-server, and no xllamacpp")
    return program


def _models(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, Path, Sequence[str]]]:
    """Yield name, file and own options of each model."""
    for path in options.files:
        yield path.name, path, ()
    if options.files:
        return
    for shape in arguments.chosen(SHAPES, options.only):
        path = folder / f"{shape.name}.gguf"
        shape.write(path)
        yield shape.name, path, shape.args
        path.unlink()


def _print(program: Sequence[str], title: str, path: Path, words: Sequence[str]) -> bool:
    """Print a line about one model; return whether the estimate is near."""
    label = f"{title} {shlex.join(words)}"[:37]
    try:
        comparison = compare(program, path, words)
    except (StartError, GgufError) as exc:
        print(f"{label:38}not measured: {exc}")
        return False
    pairs = zip(comparison.estimated_mib, comparison.reported_mib, strict=True)
    cells = "".join(f"{f'{estimated:.1f} /{reported:8.1f}':>16}" for estimated, reported in pairs)
    mark = "" if comparison.is_near else "  <-"
    print(f"{label:38}{cells}{comparison.error:+8.1%}{mark}", flush=True)
    return comparison.is_near
