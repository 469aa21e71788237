"""What a run reports of itself while it goes on."""

from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """Where a run stands, in its file or in a given one that is learned before."""

    bytes_done: int
    bytes_total: int
    payload_bits: float
    seconds: float


ProgressCallback = Callable[[Progress], None]
