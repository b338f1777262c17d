"""The host's queue and progress bar, as far as jobs touch them."""

from __future__ import annotations

import threading
from typing import Protocol

from lora_eval.host.protocol import Job


class Bar(Protocol):
    """What a job needs of its host."""

    def show(self, job: Job) -> None:
        """Mirror the job into the host's progress bar, if the queue is ours."""

    def stop_asked(self, job: Job) -> bool:
        """Whether the host's Interrupt was pressed while the queue was ours."""

    def stop_batch(self, job: Job) -> None:
        """Press the host's Interrupt for the batch that this job is drawing."""


class QueueLock:
    """The host's ``queue_lock`` for one thread at a time, re-entrant in that thread (the host's own is not)."""

    def __init__(self) -> None:
        self._owner: int | None = None
        self._depth = 0

    @property
    def mine(self) -> bool:
        """Whether the calling thread holds it."""
        return self._owner == threading.get_ident()

    @property
    def held(self) -> bool:
        """Whether any thread of ours holds it."""
        return self._owner is not None

    def __enter__(self) -> QueueLock:
        if not self.mine:
            from modules.call_queue import queue_lock

            queue_lock.acquire()
            self._owner = threading.get_ident()
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            from modules.call_queue import queue_lock

            self._owner = None
            queue_lock.release()


class WebuiJob(Job):
    """A job mirrored into the host's progress bar while the host's queue is ours."""

    def __init__(self, host: Bar, title: str, total: int) -> None:
        super().__init__(title, total)
        self._host = host

    def report(self) -> None:
        self._host.show(self)

    def interrupt(self) -> None:
        """Stop at the next check, and the batch being drawn at its next sampling step."""
        super().interrupt()
        self._host.stop_batch(self)

    @property
    def interrupted(self) -> bool:
        if not self._stop and self._host.stop_asked(self):
            self._stop = True
        return self._stop
