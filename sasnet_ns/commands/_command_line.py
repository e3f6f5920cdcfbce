"""What every command does around its work: parse, and end in one sentence where the input is at fault."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

T = TypeVar("T")


def command_line(
    arguments: type[T],
    run: Callable[[T], None],
    *,
    description: str | None,
    name: str,
    program: str | None,
    args: Sequence[str] | None,
    interrupted: str = "interrupted.",
) -> None:
    """Parse a command line and do what it says.

    Args:
        arguments: dataclass whose fields are the options; ``max_memory`` among them limits what a file may ask for.
        run: what to do with them.
        description: text above the options in ``--help``.
        name: what messages begin with where ``program`` is None.
        program: the command as it was typed (``sasnet extract``); None for a script, which is called by its file.
        args: what follows it; the process's own arguments if None.
        interrupted: said after Ctrl-C.

    Raises:
        SystemExit: after ``--help``, and with a sentence where the input is at fault (exit code 1) or the command line
            is (2), and after SIGTERM (143), which ends a command as Ctrl-C does: unfinished files are removed.
    """
    from sdf_tools.errors import MissingLibraryError, file_trouble
    from sdf_tools.io.limits import allow_memory

    parsed = tyro.cli(arguments, description=description, prog=program, args=args)
    prefix = program or name
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{prefix}: {message}\n"
    main = threading.current_thread() is threading.main_thread()
    handled = main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if handled:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    keys = signal.getsignal(signal.SIGINT)
    stopped = threading.Event()

    def stop(signum: int, frame: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    told = main and keys is signal.default_int_handler
    if told:
        signal.signal(signal.SIGINT, stop)
    try:
        allow_memory(getattr(parsed, "max_memory", None))
        run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output (head, less) has enough; a closed pipe must not be flushed once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, MissingLibraryError) as error:
        sys.exit(f"{prefix}: {error}")
    except OSError as error:
        sys.exit(f"{prefix}: {file_trouble(error)}")
    except KeyboardInterrupt:
        sys.exit(f"{prefix}: {interrupted}")
    except RuntimeError as error:
        # While it compiles, numba swallows Ctrl-C and then misses what it was about to get.
        if stopped.is_set() and "compiled object" in str(error):
            sys.exit(f"{prefix}: {interrupted}")
        raise
    finally:
        warnings.formatwarning = before
        if told:
            signal.signal(signal.SIGINT, keys)
        if handled:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
