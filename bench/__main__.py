"""``python -m bench COMMAND`` runs one benchmark."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from . import cache, dashboard, download, logs, prefetch, reload, scan
from .memory import command as memory
from .programs import ENDING
from .proxy import command as proxy
from .schedule import command as schedule
from .swap import command as swap


def main() -> int:
    """Run one benchmark; return 1 if it missed a goal, 2 if it could not be run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    proxy.add_arguments(commands.add_parser("proxy", help="the cost of passing requests on"))
    swap.add_arguments(commands.add_parser("swap", help="the cost of a swap between two models"))
    reload.add_arguments(
        commands.add_parser("reload", help="the cost of a changed configuration file")
    )
    prefetch.add_arguments(
        commands.add_parser("prefetch", help="the cost of a swap from a cold page cache")
    )
    cache.add_arguments(
        commands.add_parser("cache", help="the time to the first token after a swap and back")
    )
    dashboard.add_arguments(
        commands.add_parser("dashboard", help="bytes, first paint and idle cost of the page")
    )
    scan.add_arguments(commands.add_parser("scan", help="the cost of scanning for models"))
    download.add_arguments(commands.add_parser("download", help="the rate of a download"))
    logs.add_arguments(
        commands.add_parser("logs", help="the cost of a backend that floods its log")
    )
    memory.add_arguments(
        commands.add_parser("memory", help="how near estimates of memory are to llama.cpp's report")
    )
    schedule.add_arguments(
        commands.add_parser("schedule", help="swaps, waits and fairness beside rules of peers")
    )
    options = parser.parse_args()
    for number in ENDING:
        # SIGINT has Python's own handler; nohup has set SIGHUP to be ignored.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)
    runs = {
        "proxy": proxy.run,
        "swap": swap.run,
        "reload": reload.run,
        "logs": logs.run,
        "memory": memory.run,
        "prefetch": prefetch.run,
        "cache": cache.run,
        "dashboard": dashboard.run,
        "scan": scan.run,
        "schedule": schedule.run,
        "download": download.run,
    }
    try:
        return runs[options.command](options)
    except ImportError as error:  # its message names the extra that is missing
        print(f"bench {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"bench {options.command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _stop(number: int, _frame: FrameType | None) -> None:
    """Exit as on Ctrl-C: every process that was started is ended by its context manager."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
