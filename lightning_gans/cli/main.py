"""The command line: run a command, and turn errors into short messages and exit codes."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import select
import sys
from collections.abc import Sequence

from lightning_gans._version import __version__
from lightning_gans.cli.arguments import COMMANDS, LIGHTNING, PROGRAM, parse
from lightning_gans.cli.known_errors import known_error
from lightning_gans.cli.working_folder import add_working_folder, remove_working_folder
from lightning_gans.errors import SettingError, nearest


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: The words after the program's name; by default those of this process.

    Raises:
        SystemExit: With code 2 for an invalid command line and 1 for invalid data or files, after a message of at
            most three lines on standard error. ``--traceback`` raises the error itself instead. A run that is stopped
            by a signal exits with code 128 + the signal's number.
    """
    words = list(sys.argv[1:] if args is None else args)
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    for stream in (sys.stdout, sys.stderr):  # file names may have characters that the encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if args is None:  # the process is ours
            remove_working_folder()
        _run(words)
        print(end="", flush=True)  # a closed output or a full disk raises here
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        # After a Ctrl-C before training starts, Lightning itself would exit with 1.
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            raise SystemExit(130) from None
        if isinstance(error, OSError) and _output_fails() and isinstance(error, BrokenPipeError):
            raise SystemExit(128 + 13) from None  # SIGPIPE, which not every system has
        known = known_error(error)
        if known is None or traceback:
            raise
        lines = [line for line in str(known).splitlines() if line.strip()][:3]
        print(f"{PROGRAM}: " + "\n".join(lines), file=sys.stderr)
        raise SystemExit(known.exit_code) from None


def _output_fails() -> bool:
    """Return whether standard output is closed or full, and if so, let Python flush the rest to nowhere at exit."""
    try:
        sys.stdout.flush()
        poll = select.poll()  # not on every system
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        fails = any(event & select.POLLERR for _, event in poll.poll(0))  # a failed flush has dropped its buffer
    except (AttributeError, OSError, ValueError) as error:  # ValueError: not a file
        fails = isinstance(error, OSError) and not isinstance(error, io.UnsupportedOperation)
    if fails:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return fails


def trusting(words: Sequence[str]) -> list[str]:
    """Trust the modules that ``--import MODULE`` names, and return the other words."""
    from lightning_gans.training.allowed_classes import trust

    left: list[str] = []
    remaining = iter(words)
    for word in remaining:
        option, assigned, module = word.partition("=")
        if option != "--import":
            left.append(word)
        elif module := module if assigned else next(remaining, ""):
            add_working_folder([module])
            trust(module)
        else:
            raise SettingError("--import needs the name of a module, as in --import my_networks.", setting="--import")
    return left


def _run(words: list[str]) -> None:
    """Find the command and run it."""
    command, *rest = words or ["--help"]
    if command in ("-h", "--help"):
        print(f"usage: {PROGRAM} COMMAND [options]        ({PROGRAM} COMMAND --help lists them)\n")
        for name, what in COMMANDS.items():
            print(f"  {name:14} {what}")
        print(f"\nStart with:  {PROGRAM} fit -c quickstart")
    elif command == "--version":
        print(f"lightning_gans {__version__}")
    elif command not in COMMANDS:
        message = f"{command!r} is not a command.{nearest(command, COMMANDS)}\nCommands: {', '.join(COMMANDS)}."
        raise SettingError(message, setting="COMMAND", value=command, allowed=list(COMMANDS))
    elif command in LIGHTNING:
        from lightning_gans.cli.training import TrainingCLI

        TrainingCLI(trusting(words))
    elif command == "resume" and not {"-h", "--help"} & set(rest):
        from lightning_gans.cli import resume, training

        training.TrainingCLI(*resume.words_to_fit(trusting(rest)))
    else:
        options = parse(command, rest)
        importlib.import_module(f"lightning_gans.cli.commands.{command.replace('-', '_')}").run(**options)
