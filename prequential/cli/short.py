"""``preq`` called without a command, as gzip and zstd are: the command that its flags mean."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence

_MEANT = {
    **dict.fromkeys(("-d", "--decompress", "--uncompress"), "decode"),
    **dict.fromkeys(("-t", "--test"), "test"),
    **dict.fromkeys(("-l", "--list"), "info"),
}
_JOINED = re.compile("-([cdfklqtv]+)(o.*)?", re.DOTALL)  # one letter each, as in -dc
_OF_PREQ = ("-h", "--help", "--version")


def is_short(argv: Sequence[str], commands: Collection[str]) -> bool:
    """Whether there is no command: nothing at all, a flag first, or the name of a file."""
    if not argv:
        return True
    first = argv[0]
    if first in commands or first in _OF_PREQ:
        return False
    return first.startswith("-") or os.path.lexists(first)


def with_command(argv: Sequence[str]) -> list[str]:
    """The same with a command: the harmless one where flags name several.

    >>> with_command(["-dc", "a.pq"]), with_command(["--", "-d"])
    (['decode', '-c', 'a.pq'], ['encode', '--', '-d'])
    """
    end = argv.index("--") if "--" in argv else len(argv)
    words: list[str] = []
    for word in argv[:end]:
        if joined := _JOINED.fullmatch(word):
            letters, output = joined.groups()
            words += [f"-{letter}" for letter in letters] + ([f"-{output}"] if output else [])
        else:
            words.append(word)
    meant = {_MEANT[word] for word in words if word in _MEANT}
    command = next((c for c in ("info", "test", "decode") if c in meant), "encode")
    return [command, *(word for word in words if word not in _MEANT), *argv[end:]]
