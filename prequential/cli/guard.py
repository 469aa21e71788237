"""Work on files, one after the other: every expected failure is one line, the worst code counts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from prequential.archive.files import display
from prequential.cli import terminal
from prequential.errors import ConfigError, PrequentialError

OK, ERROR, USAGE, INTERRUPTED = 0, 1, 2, 130  # argparse ends with 2 as well


def each(files: Iterable[str], work: Callable[[str], None]) -> int:
    """The worst exit code of work on each file."""
    return max(_guarded(name, work) for name in files)


def once(name: str, work: Callable[[], None]) -> int:
    """The exit code of work on what `name` says, in messages, where it is no file."""
    return _guarded(name, lambda _: work())


def _guarded(name: str, work: Callable[[str], None]) -> int:
    shown = display(name)
    try:
        work(name)
        return OK
    except ConfigError as error:
        terminal.say(f"error: {error}")
        return USAGE
    except PrequentialError as error:
        terminal.say(f"error: {error}")
    except BrokenPipeError:
        terminal.say("error: standard output was closed before all was written")
    except OSError as error:
        if error.errno is None:  # not of a system call: a library's own, which it cannot load
            terminal.say(_not_loaded(shown, error))
            return ERROR
        where = display(os.fsdecode(error.filename)) if error.filename else shown
        terminal.say(f"error: {where}: {error.strerror or error}: check the disk and permissions")
    except MemoryError:
        terminal.say(f"error: {shown}: not enough memory: free some or use a larger machine")
    except ImportError as error:
        terminal.say(_not_loaded(shown, error))
    return ERROR


def _not_loaded(shown: str, error: Exception) -> str:
    return (
        f"error: {shown}: a library cannot be loaded ({error}): see that there is memory for it, or"
        " install prequential anew"
    )
