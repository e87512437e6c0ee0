"""The command line: the commands of Lightning's that train and evaluate, our own, and one-line errors."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import sys
from collections.abc import Sequence

import lightning_gans
from lightning_gans.cli import resume
from lightning_gans.cli.parsing import PROGRAM, CommandParser, our_error
from lightning_gans.cli.trainer_settings import refusal
from lightning_gans.cli.training import TrainingCLI
from lightning_gans.errors import SettingError, nearest
from lightning_gans.training import checkpoint_format as checkpoints

COMMANDS = {
    "fit": "train a model by a recipe",
    "resume": "go on with a run that was stopped, in its folder",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "reconstruct the test split (VAE), or sample its labels (conditional models)",
    "sample": "write pictures from a checkpoint",
    "interpolate": "write the pictures on the way between seeds, labels or pictures",
    "reconstruct": "write what a VAE makes of pictures",
    "export": "write a model as ONNX, as .pt2 or as safetensors",
    "report": "write a run as one page of HTML",
    "compare": "lay scores of one protocol side by side",
    "recipes": "list the recipes, or print one",
}
_OURS = ("sample", "interpolate", "reconstruct", "export", "report", "compare", "recipes")


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: The words after the program's name; by default those that the process was started with.

    Raises:
        SystemExit: With code 2 for a wrong command line and 1 for wrong data or files, after at most three
            lines on standard error; ``--traceback`` shows where the error comes from instead. With 128 + the
            number of the signal that stopped it.
    """
    words = list(sys.argv[1:] if args is None else args)
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    # Modules of yours can be imported from the working folder, after everything that is installed: a stray file in
    # it must not stand in for a library. `python -m` puts it first.
    here = os.getcwd()
    sys.path[:] = [*(place for place in sys.path if place not in ("", here)), here]
    try:
        _run(words)
        print(end="", flush=True)  # here, where an error can be dealt with
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        # `lightning-gans recipes | head` has seen enough. What Python flushes as it ends goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + 13) from None  # SIGPIPE, which not every system has
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning leaves with 1 after a Ctrl-C that came before the training had begun.
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            raise SystemExit(130) from None
        raise
    except Exception as error:
        ours = our_error(error) or refusal(error)
        if ours is None or traceback:
            raise
        lines = [line for line in str(ours).splitlines() if line.strip()][:3]
        print(f"{PROGRAM}: " + "\n".join(lines), file=sys.stderr)
        raise SystemExit(ours.exit_code) from None


def _output_is_closed() -> bool:
    """Whether nobody reads any more what is printed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no file, or a system without poll
        poller = select.poll()
        poller.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poller.poll(0))
    return False


def trusting(words: Sequence[str]) -> list[str]:
    """Trust the modules that ``--import MODULE`` names, and return the other words."""
    left: list[str] = []
    remaining = iter(words)
    for word in remaining:
        option, given, module = word.partition("=")
        if option != "--import":
            left.append(word)
        elif module := module if given else next(remaining, ""):
            checkpoints.trust(module)
        else:
            raise SettingError("--import needs the name of a module, as in --import my_networks.")
    return left


def _run(words: list[str]) -> None:
    """Find the command and run it."""
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {PROGRAM} COMMAND [options]        ({PROGRAM} COMMAND --help tells them)\n")
        for name, what in COMMANDS.items():
            print(f"  {name:12} {what}")
        print(f"\nBegin with:  {PROGRAM} fit -c quickstart")
        return
    command = words[0]
    if command == "--version":
        print(f"lightning_gans {lightning_gans.__version__}")
    elif command in _OURS:
        module = importlib.import_module(f"lightning_gans.cli.commands.{command}")
        parser = CommandParser(prog=f"{PROGRAM} {command}", description=COMMANDS[command], allow_abbrev=False)
        module.add_arguments(parser)
        module.run(parser.parse_args(words[1:]))
    elif command == "resume" and not {"-h", "--help"} & set(words):
        TrainingCLI(*resume.words_to_fit(trusting(words[1:])))
    elif command == "resume":
        print(
            f"usage: {PROGRAM} resume RUN [--import MODULE] [options of fit]\n"
            "  RUN     a run's folder, runs/<recipe>/version_N\n"
            "  MODULE  a module of yours whose classes the run's configuration and checkpoint may name"
        )
    elif command in COMMANDS:
        TrainingCLI(trusting(words))
    else:
        raise SettingError(f"{command!r} is no command.{nearest(command, COMMANDS)}\nCommands: {', '.join(COMMANDS)}.")
