"""Records a swap in a terminal, from the real program, and writes it as an animated SVG.

``python docs/pictures/record_swap.py docs/pictures/swap.svg`` runs ``llama-router demo`` with its
two tiny models, types the commands of `STEPS` beside it, and draws what the terminal showed.
It needs the package ``pyte`` (``pip install pyte``), a terminal emulator.
"""

from __future__ import annotations

import fcntl
import html
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyte

COLUMNS, ROWS = 84, 22
PORT = 8082

#: What is typed, and how long the result stays in view, in seconds.
STEPS = (
    ("llama-router list", 2.0),
    ("llama-router run tiny-a 'Tell me a story' --set max_tokens=40", 2.5),
    ("llama-router ps", 2.5),
    ("llama-router run tiny-b 'And another one' --set max_tokens=40", 2.5),
    ("llama-router ps", 4.0),
)

KEY_S = 0.035  # between two keys
FRAME_S = 0.05  # shortest time between two frames

#: Size of a character, and of the frame around the terminal, in pixels.
CHARACTER_PX, LINE_PX, MARGIN_PX, TITLE_PX = 8.4, 19, 16, 34

INK, PAPER, FRAME = "#d8dee6", "#12171d", "#1d242c"
COLOURS = {
    "black": "#5b6672",
    "red": "#ff8a80",
    "green": "#7bd88f",
    "brown": "#e8c66a",
    "yellow": "#e8c66a",
    "blue": "#7fb4ff",
    "magenta": "#d6a0ff",
    "cyan": "#5ec3d6",
    "white": "#d8dee6",
}

Frame = tuple[float, tuple[str, ...]]
"""The time of a frame in seconds, and its lines as elements of SVG."""


def main() -> None:
    """Record, and write the file that the command line names."""
    target = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        program = shutil.which("llama-router") or str(
            Path(sys.executable).with_name("llama-router")
        )
        environment = {
            **os.environ,
            "HOME": folder,
            "XDG_CACHE_HOME": folder,
            "TERM": "xterm-256color",
            "PATH": f"{Path(program).parent}:{os.environ['PATH']}",
        }
        router = subprocess.Popen(
            [program, "demo", "--port", str(PORT)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until_ready()
            os.chdir(next(Path(folder).rglob("router.toml")).parent)  # commands look there
            frames = list(record(environment))
        finally:
            router.send_signal(signal.SIGTERM)
            router.wait(30)
    target.write_text(drawn(frames), encoding="utf-8")


def wait_until_ready() -> None:
    """Wait until the router of the demo answers."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the demo does not start; is the extra 'embedded' installed?")


def record(environment: dict[str, str]) -> Iterator[Frame]:
    """Type the commands, and yield what the terminal shows."""
    screen = pyte.Screen(COLUMNS, ROWS)
    terminal = pyte.ByteStream(screen)
    now_s = 0.0

    def frame() -> Frame:
        return now_s, tuple(line_of(screen, row) for row in range(ROWS))

    for command, stays_s in STEPS:
        terminal.feed(b"\x1b[1;36m$\x1b[0m ")
        yield frame()
        now_s += 0.5
        for character in command:
            terminal.feed(character.encode())
            now_s += KEY_S
            yield frame()
        now_s += 0.3
        terminal.feed(b"\r\n")
        for taken_s, data in output_of(command, environment):
            now_s += taken_s
            terminal.feed(data)
            yield frame()
        now_s += stays_s
        yield frame()


def output_of(command: str, environment: dict[str, str]) -> Iterator[tuple[float, bytes]]:
    """Run *command* in a terminal; yield its output, each time with the seconds that passed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("/bin/sh", ["sh", "-c", command], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    last_s = time.monotonic()
    try:
        while True:
            select.select([terminal], [], [], 60)
            time.sleep(FRAME_S)  # what comes together is one frame
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the command has ended
                break
            if not data:
                break
            passed_s, last_s = time.monotonic() - last_s, time.monotonic()
            yield passed_s, data
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"{command}: status {os.waitstatus_to_exitcode(status)}")


def line_of(screen: pyte.Screen, row: int) -> str:
    """Return one line of the screen as elements of SVG; empty for an empty one."""
    cells = [screen.buffer[row][column] for column in range(COLUMNS)]
    while cells and cells[-1].data == " " and not cells[-1].reverse:
        cells.pop()
    runs: list[tuple[str, str]] = []
    for cell in cells:
        style = style_of(cell)
        if runs and runs[-1][0] == style:
            runs[-1] = (style, runs[-1][1] + cell.data)
        else:
            runs.append((style, cell.data))
    spans = "".join(
        f"<tspan{style}>{html.escape(text, quote=False)}</tspan>" if style else html.escape(text)
        for style, text in runs
    )
    y = TITLE_PX + MARGIN_PX + row * LINE_PX + 13
    return f'<text x="{MARGIN_PX}" y="{y}" xml:space="preserve">{spans}</text>' if cells else ""


def style_of(cell: pyte.screens.Char) -> str:
    """Return the attributes of a character; empty for plain text."""
    colour = COLOURS.get(cell.fg) or (f"#{cell.fg}" if len(cell.fg) == 6 else None)
    parts = [f' fill="{colour}"'] if colour and cell.fg != "default" else []
    if cell.bold:
        parts.append(' font-weight="700"')
    return "".join(parts)


def drawn(frames: list[Frame]) -> str:
    """Return the animation: each line of each frame is shown for its time, again and again."""
    total_s = frames[-1][0] + 1.0
    shown: dict[str, list[tuple[float, float]]] = {}
    for (at_s, lines), (until_s, _) in zip(frames, [*frames[1:], (total_s, ())], strict=True):
        for line in filter(None, lines):
            spans = shown.setdefault(line, [])
            if spans and spans[-1][1] >= at_s:
                spans[-1] = (spans[-1][0], until_s)
            else:
                spans.append((at_s, until_s))
    body = "\n".join(animated(line, spans, total_s) for line, spans in shown.items())
    width = round(2 * MARGIN_PX + COLUMNS * CHARACTER_PX)
    height = TITLE_PX + 2 * MARGIN_PX + ROWS * LINE_PX
    dots = "".join(
        f'<circle cx="{20 + 20 * n}" cy="17" r="6" fill="{colour}"/>'
        for n, colour in enumerate(("#ff8a80", "#e8c66a", "#7bd88f"))
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" \
height="{height}" role="img" \
aria-label="llama-router loads a model, answers, and swaps it for another">
<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>
<path d="M0 {TITLE_PX}V10A10 10 0 0 1 10 0H{width - 10}A10 10 0 0 1 {width} 10V{TITLE_PX}Z" \
fill="{FRAME}"/>
{dots}
<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" \
font-size="14" fill="{INK}">
{body}
</g>
</svg>
"""


def animated(line: str, spans: list[tuple[float, float]], total_s: float) -> str:
    """Return *line*, visible in *spans* only."""
    times, values = [0.0], ["hidden"]
    for begin_s, end_s in spans:
        times += [begin_s / total_s, end_s / total_s]
        values += ["visible", "hidden"]
    if times[1] == 0:
        times, values = times[1:], values[1:]
    if times[-1] >= 1:
        times, values = times[:-1], values[:-1]
    keys = ";".join(f"{each:.4f}".rstrip("0").rstrip(".") or "0" for each in times)
    return line.replace(
        "</text>",
        f'<animate attributeName="visibility" calcMode="discrete" dur="{total_s:.2f}s" '
        f'repeatCount="indefinite" keyTimes="{keys}" values="{";".join(values)}"/></text>',
    )


if __name__ == "__main__":
    main()
