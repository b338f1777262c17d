"""The host's queue and progress bar, as far as jobs touch them."""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from lora_eval.host.protocol import Job


class Bar(Protocol):
    """What a job needs of its host."""

    def show(self, job: Job) -> None:
        """Mirror the job into the host's progress bar, if the queue is ours."""

    def stop_asked(self, job: Job) -> bool:
        """Whether the host's Interrupt was pressed while the queue was ours."""

    def switched(self, job: Job) -> str:
        """Why the job must not go on with what is now chosen in the host, "" when it may."""

    def stop_batch(self, job: Job) -> None:
        """Press the host's Interrupt for the batch that this job is drawing."""


GIVE_WAY = 1.0
"""Seconds that whoever was first in line has to wake up and take the queue."""


def _give_way(lock: Any) -> None:
    """Let the first in line have the queue before we ask for it again.

    The hosts' lock wakes the first in line and is free until that thread runs; ours runs already, asks again for its
    next batch, gets it, and on a busy machine goes on like that.
    """
    inner = getattr(lock, "_lock", None)
    until = time.monotonic() + GIVE_WAY
    while inner is not None and not inner.locked() and time.monotonic() < until:
        time.sleep(0.002)


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

    @property
    def waiting(self) -> int:
        """How many of the host's own requests stand in line while a thread of ours holds it.

        Both hosts keep the events of those who wait in ``modules/fifo_lock.py``.
        """
        if not self.held:
            return 0
        from modules.call_queue import queue_lock

        return len(getattr(queue_lock, "_pending_threads", ()))

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

            others = self.waiting
            self._owner = None
            queue_lock.release()
            if others:
                _give_way(queue_lock)


class ReloadWatch:
    """Tells the Interrupt that the host presses itself on Reload UI from a person's.

    ``State.request_restart`` interrupts whatever runs before it rebuilds the page; our jobs need no page and go on.
    """

    def __init__(self) -> None:
        self._lock: QueueLock | None = None
        self._pending = False

    def guard(self, lock: QueueLock) -> None:
        """Look after the jobs that hold this lock."""
        self._lock = lock

    def hook(self, state: Any) -> None:
        """Hear of Reload UI. Before the page is built: its button keeps the function that it is given then."""
        if getattr(state, "lora_eval_hears", False):
            return
        restart = state.request_restart

        def request_restart() -> None:
            self._pending = self._lock is not None and self._lock.held
            restart()

        state.request_restart, state.lora_eval_hears = request_restart, True

    def stopped(self, state: Any) -> bool:
        """Whether a person asked to stop. An Interrupt of Reload UI is taken back."""
        if not (state.interrupted or state.stopping_generation):
            return False
        if self._pending:
            self._pending = False
            state.interrupted = False
            return False
        return True


reload_watch = ReloadWatch()


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
        if not self._stop:
            if self._host.stop_asked(self):
                self._stop = True
            elif why := self._host.switched(self):
                self.pause(why)
        return self._stop
