"""``python -m bench COMMAND``: which benchmark to run."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from . import download, logs, reload, scan
from .programs import ENDING
from .proxy import command as proxy
from .swap import command as swap


def main() -> int:
    """Run one benchmark; return 1 if it missed a goal, 2 if it could not be run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    proxy.add_arguments(commands.add_parser("proxy", help="what passing requests on costs"))
    swap.add_arguments(commands.add_parser("swap", help="what exchanging two models costs"))
    reload.add_arguments(commands.add_parser("reload", help="what a changed file costs"))
    scan.add_arguments(commands.add_parser("scan", help="what looking for models costs"))
    download.add_arguments(commands.add_parser("download", help="how fast a download is"))
    logs.add_arguments(commands.add_parser("logs", help="what a flood of output costs"))
    options = parser.parse_args()
    for number in ENDING:
        # That of Ctrl-C is Python's own; and after nohup, the terminal may go.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)
    runs = {
        "proxy": proxy.run,
        "swap": swap.run,
        "reload": reload.run,
        "logs": logs.run,
        "scan": scan.run,
        "download": download.run,
    }
    try:
        return runs[options.command](options)
    except ImportError as error:  # of what an extra brings; it says which
        print(f"bench {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"bench {options.command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _stop(number: int, _frame: FrameType | None) -> None:
    """End like on Ctrl-C: every process that was started is ended on the way out."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
