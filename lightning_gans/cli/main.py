"""The command line: run a command, and turn errors into short messages and exit codes."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import sys
from collections.abc import Sequence

from lightning_gans._version import __version__
from lightning_gans.cli.arguments import COMMANDS, LIGHTNING, PROGRAM, parse
from lightning_gans.errors import LightningGansError, SettingError, nearest


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: The words after the program's name; by default those of this process.

    Raises:
        SystemExit: With code 2 for an invalid command line and 1 for invalid data or files, after a message of at
            most three lines on standard error. ``--traceback`` raises the error itself instead. A run that a signal
            stops exits with 128 + its number.
    """
    words = list(sys.argv[1:] if args is None else args)
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    # Search the working folder for custom modules last, so that no file in it shadows a library.
    here = os.getcwd()
    sys.path[:] = [*(place for place in sys.path if place not in ("", here)), here]
    try:
        _run(words)
        print(end="", flush=True)  # a closed output raises here
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        # The output is closed, as in `lightning-gans recipes | head`. Python flushes the rest to nowhere at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + 13) from None  # SIGPIPE, which not every system has
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning exits with 1 after a Ctrl-C before the training starts.
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            raise SystemExit(130) from None
        raise
    except Exception as error:
        known = _known_error(error)
        if known is None or traceback:
            raise
        lines = [line for line in str(known).splitlines() if line.strip()][:3]
        print(f"{PROGRAM}: " + "\n".join(lines), file=sys.stderr)
        raise SystemExit(known.exit_code) from None


def _known_error(error: Exception) -> LightningGansError | None:
    """Return the error to print in place of a traceback."""
    if isinstance(error, LightningGansError):
        return error
    from lightning_gans.cli.parsing import known_error

    return known_error(error)


def _output_is_closed() -> bool:
    """Return whether the reader of standard output is gone."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # not a file, or a system without poll
        poller = select.poll()
        poller.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poller.poll(0))
    return False


def trusting(words: Sequence[str]) -> list[str]:
    """Trust the modules that ``--import MODULE`` names, and return the other words."""
    from lightning_gans.training.checkpoint_format import trust

    left: list[str] = []
    remaining = iter(words)
    for word in remaining:
        option, assigned, module = word.partition("=")
        if option != "--import":
            left.append(word)
        elif module := module if assigned else next(remaining, ""):
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
            print(f"  {name:12} {what}")
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
        importlib.import_module(f"lightning_gans.cli.commands.{command}").run(**options)
