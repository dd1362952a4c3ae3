"""What all entry points share: flags in, one line and exit status 1 for a bad value."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags, logging


class UserError(Exception):
    """Something the user can mend; its message is one line that says how."""


_HELP = {"--help", "-help", "--helpfull", "--helpshort", "-h"}
INTERRUPTED, TERMINATED = 130, 75
"""Exit statuses after Ctrl-C and SIGTERM; the second is EX_TEMPFAIL: try again."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM, cleanly handled; its message says what is there."""

    def __init__(self, message: str, status: int = INTERRUPTED):
        super().__init__(message)
        self.status = status


def one_line(error: BaseException) -> str:
    """The message of an exception without line breaks; its type if it is empty."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def terminating(message: str) -> Iterator[None]:
    """Lets a SIGTERM inside the block end the process with a status of its own.

    Args:
        message: Printed then.
    """

    def end(*_: object) -> NoReturn:
        print(message, file=sys.stderr)
        sys.exit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main one
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str) -> NoReturn:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def _is_users(error: Exception) -> bool:
    """Whether the user can mend it: a bad value, a file, a full disk.

    TensorFlow's own errors (a full disk under its writers, a damaged record in a data
    set) are told by their module: it need not be loaded.
    """
    tensorflows = type(error).__module__ == "tensorflow.python.framework.errors_impl"
    return isinstance(error, ValueError | OSError | UserError) or tensorflows


def _parse(argv: Sequence[str]) -> list[str]:
    if asked := _HELP & set(argv[1:]):
        # By itself absl ends with status 1, as after a mistake.
        app.usage(writeto_stdout=True, shorthelp=asked != {"--helpfull"}, exitcode=0)
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        _fail(one_line(error))
    if len(rest) > 1:
        _fail(f"all options are flags (--name=value). Received: {' '.join(rest[1:])}")
    return rest


def run(main: Callable[[], int | None], argv: Sequence[str] | None = None) -> None:
    """Parses the flags, calls `main()` and exits with its status.

    `--help` lists the flags. A `ValueError`, `OSError` or `UserError` becomes
    `error: ...` on one line and exit status 1 (`--verbosity=1` shows the traceback); an
    interrupt becomes status 130, a `Stopped` its own. Anything else is a fault of ours
    and keeps its traceback.

    Args:
        main: The program; it reads `absl.flags.FLAGS`.
        argv: Command line with the program's name; `sys.argv` if None.
    """

    def guarded(_: Sequence[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        try:
            return main()
        except (KeyboardInterrupt, Stopped) as stop:
            print(one_line(stop), file=sys.stderr)
            return getattr(stop, "status", INTERRUPTED)
        except Exception as error:
            if not _is_users(error) or logging.get_verbosity() >= logging.DEBUG:
                raise
            _fail(one_line(error))

    command_line = list(sys.argv if argv is None else argv)
    app.run(guarded, argv=command_line, flags_parser=_parse)
