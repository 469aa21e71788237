"""What else a learner's threads do: whole tasks beside the first one's work, or a share of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from prequential.exact import shares

Task = Callable[[], object]


class Threads:
    """The threads of one learner, while they pay (`shares.Pace`)."""

    def __init__(self, count: int) -> None:
        self._others = count - 1
        self._pool = ThreadPoolExecutor(self._others) if self._others else None
        self._pace = shares.Pace()
        self._tasks: list[tuple[Future[object], Task]] = []

    @property
    def together(self) -> bool:
        """Whether there are others at work in this chunk."""
        return self._pool is not None and self._pace.together

    def start(self) -> None:
        """A chunk begins, if none has."""
        self._pace.start()

    def stop(self) -> None:
        """The chunk ends."""
        self._pace.stop()

    def beside(self, task: Task) -> None:
        """Run a task now or on another thread; it is done when the next `finish` returns."""
        if not self.together:
            task()
        elif self._pool is not None:
            self._tasks.append((self._pool.submit(task), task))

    def join(self, call: Task, others: int | None = None) -> None:
        """Let other threads take part in a compiled call whose work can be shared."""
        if self._pool is not None and self._pace.together:
            for _ in range(self._others if others is None else others):
                self._pool.submit(call)

    def finish(self) -> None:
        """See that all tasks are done."""
        # What no thread has begun yet is done here: on a busy machine none may have had its turn.
        for future, task in reversed(self._tasks):
            if future.cancel():
                task()
            else:
                future.result()
        self._tasks.clear()
