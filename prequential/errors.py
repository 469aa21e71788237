"""Every failure a user can meet.

The message of each is one line ready to be shown: what happened, to which file, what to do.
"""


class PrequentialError(Exception):
    """Base of all errors this package raises on purpose."""


class ConfigError(PrequentialError):
    """A configuration is malformed, has unknown keys or values out of range."""


class ArchiveError(PrequentialError):
    """The input is not an archive, or is truncated, damaged or of an unsupported version."""


class DivergenceError(PrequentialError):
    """The decoder's weights or output differ from the encoder's."""


class FileError(PrequentialError):
    """A file cannot be read or written, or writing it is refused."""


class PlatformError(PrequentialError):
    """The arithmetic of this machine fails a self-test, so results would not be reproducible."""
