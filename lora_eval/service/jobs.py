"""Jobs in the background: one at a time, the others wait in line.

A page asks again and again how a job is doing, so closing it, reloading the UI or opening a second browser does no
harm. The state lives in this package, not in the WebUI's script file, which is executed anew on Reload UI.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from lora_eval.errors import Interrupted, LoraEvalError, RunError
from lora_eval.host.protocol import Job

QUEUED, RUNNING, FINISHED, FAILED, INTERRUPTED = "queued", "running", "finished", "failed", "interrupted"
PAUSED = "paused"
ENDED = (FINISHED, FAILED, INTERRUPTED, PAUSED)


@dataclass(frozen=True)
class JobState:
    """What is known about a job at one moment.

    Attributes:
        id: short and unique. kind: ``train``, ``score``, ``check``. title: for people.
        status: ``queued``, ``running``, ``finished``, ``failed``, ``interrupted`` (by a person) or ``paused`` (by the
            host, for something that a person has to mend first).
        done, total: units of work. text: what is going on. eta: seconds left, None when unknown.
        position: jobs before this one in the queue, 0 when it runs or has ended.
        error: one line when it failed or was paused, else "".
        result: what the function returned (JSON-safe); kept also when it was interrupted.
        submitted, started, ended: seconds since the epoch, None where not yet.
        resumable: whether :meth:`JobQueue.resume` goes on with it.
    """

    id: str
    kind: str
    title: str
    status: str
    done: int = 0
    total: int = 0
    text: str = ""
    eta: float | None = None
    position: int = 0
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    submitted: float = 0.0
    started: float | None = None
    ended: float | None = None
    resumable: bool = False


class Handle:
    """Given to a job's function: how it shows its progress and learns that it should stop.

    Attributes:
        result: what the job has come to; set early, it outlives an interrupt.
        again: this is not the job's first time: it goes on from what ``result`` says.
        paused: why the host stopped it, "" when it did not.
    """

    def __init__(self, state_lock: threading.Lock, result: dict[str, Any] | None = None, again: bool = False) -> None:
        self.again, self.paused = again, ""
        self._state_lock = state_lock
        self._job: Job | None = None
        self._stop = False
        self._last: tuple[int, int, str] = (0, 0, "")
        self.result: dict[str, Any] = dict(result or {})

    def follow(self, job: Job) -> Job:
        """Take progress from ``job`` and pass a stop on to it. A function may follow several, one after the other."""
        with self._state_lock:
            self._job = job
            stop = self._stop
        if stop:
            job.interrupt()
        return job

    def job(self, started: AbstractContextManager[Job]) -> AbstractContextManager[Job]:
        """``with handle.job(host.job(title, total)) as job:``, followed from its start."""
        return _Followed(self, started)

    def say(self, text: str) -> None:
        """A line of status before there is a job to follow."""
        with self._state_lock:
            self._last = (*self._last[:2], text)

    def check(self) -> None:
        """Raise :class:`Interrupted` when a stop was asked for."""
        if self._stop:
            raise Interrupted("job")

    def interrupt(self) -> None:
        """Ask the function to stop."""
        with self._state_lock:
            self._stop = True
            job = self._job
        if job is not None:
            job.interrupt()

    def unfollow(self) -> None:
        """Keep the last progress when the followed job is over."""
        with self._state_lock:
            if self._job is not None:
                self._last = (self._job.done, self._job.total, self._job.text)
                self.paused = self.paused or self._job.paused
            self._job = None

    def progress(self) -> tuple[int, int, str, float | None]:
        """(done, total, text, eta)."""
        job = self._job
        if job is None:
            return (*self._last, None)
        return job.done, job.total, job.text, job.eta


class _Followed(AbstractContextManager[Job]):
    def __init__(self, handle: Handle, started: AbstractContextManager[Job]) -> None:
        self._handle, self._started = handle, started

    def __enter__(self) -> Job:
        return self._handle.follow(self._started.__enter__())

    def __exit__(self, *error: Any) -> bool | None:
        self._handle.unfollow()
        return self._started.__exit__(*error)


@dataclass
class _Record:
    id: str
    kind: str
    title: str
    function: Callable[[Handle], dict[str, Any] | None]
    handle: Handle
    resumable: bool = False
    status: str = QUEUED
    error: str = ""
    submitted: float = 0.0
    started: float | None = None
    ended: float | None = None


class JobQueue:
    """Runs functions one after the other in a thread of its own.

    Args:
        keep: ended jobs that are remembered; older ones are forgotten.
        most_waiting: jobs that may wait; a further one is refused.
    """

    def __init__(self, keep: int = 50, most_waiting: int = 100) -> None:
        self._keep, self._most_waiting = keep, most_waiting
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._records: dict[str, _Record] = {}
        self._thread: threading.Thread | None = None

    def submit(
        self, kind: str, title: str, function: Callable[[Handle], dict[str, Any] | None], resumable: bool = False
    ) -> str:
        """Put a job in line and return its id. ``function`` gets a :class:`Handle`, its result is kept.

        With ``resumable`` it may be called again after it was stopped, with :attr:`Handle.again` set.

        Raises:
            RunError: as many jobs wait as may.
        """
        handle = Handle(threading.Lock())
        record = _Record(uuid.uuid4().hex[:12], kind, title, function, handle, resumable, submitted=time.time())
        with self._changed:
            waiting = sum(one.status == QUEUED for one in self._records.values())
            if waiting >= self._most_waiting:
                raise RunError(f"{waiting} jobs wait already; interrupt some or let them end first")
            self._records[record.id] = record
            if self._thread is None:
                # a daemon: a training run must not keep a closed WebUI alive
                self._thread = threading.Thread(target=self._work, name="lora-eval-jobs", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return record.id

    def get(self, id: str) -> JobState | None:
        """The job's state, None when there is no such job (any more)."""
        with self._lock:
            record = self._records.get(id)
            return None if record is None else self._state(record)

    def list(self, kind: str | None = None) -> list[JobState]:
        """All remembered jobs, the newest first."""
        with self._lock:
            states = [self._state(record) for record in self._records.values() if kind in (None, record.kind)]
        return states[::-1]

    def current(self) -> JobState | None:
        """The running job."""
        return next((state for state in self.list() if state.status == RUNNING), None)

    def interrupt(self, id: str) -> bool:
        """Stop a running job at its next step, or take a waiting one out. False when it is unknown or over."""
        with self._changed:
            record = self._records.get(id)
            if record is None or record.status in ENDED:
                return False
            if record.status == QUEUED:
                self._end(record, INTERRUPTED)
                return True
            handle = record.handle
        # not under our lock: hosts take theirs to stop a batch
        handle.interrupt()
        return True

    def resume(self, id: str) -> bool:
        """Put a job that was stopped or failed in line again, under its id. False when it cannot go on."""
        with self._changed:
            record = self._records.get(id)
            if record is None or not self._can_resume(record):
                return False
            record.handle = Handle(threading.Lock(), record.handle.result, again=True)
            record.status, record.error, record.submitted = QUEUED, "", time.time()
            record.started = record.ended = None
            # behind those that wait already, and the newest of the list
            self._records[id] = self._records.pop(id)
            self._changed.notify_all()
        return True

    @staticmethod
    def _can_resume(record: _Record) -> bool:
        return record.resumable and record.status in (FAILED, INTERRUPTED, PAUSED)

    def wait(self, id: str, timeout: float | None = None) -> JobState | None:
        """Block until the job is over (or ``timeout`` seconds have passed) and return its state."""
        with self._changed:
            self._changed.wait_for(lambda: id not in self._records or self._records[id].status in ENDED, timeout)
        return self.get(id)

    def _state(self, record: _Record) -> JobState:
        done, total, text, eta = record.handle.progress()
        waiting = [other.id for other in self._records.values() if other.status == QUEUED]
        position = 0
        if record.status == QUEUED:
            running = any(other.status == RUNNING for other in self._records.values())
            position = waiting.index(record.id) + running
        return JobState(
            record.id, record.kind, record.title, record.status, done, total, text,
            eta if record.status == RUNNING else None, position, record.error, dict(record.handle.result),
            record.submitted, record.started, record.ended, self._can_resume(record),
        )  # fmt: skip

    def _end(self, record: _Record, status: str, error: str = "") -> None:
        record.status, record.error, record.ended = status, error, time.time()
        over = [other for other in self._records.values() if other.status in ENDED]
        for old in over[: max(0, len(over) - self._keep)]:
            del self._records[old.id]
        self._changed.notify_all()

    def _next(self) -> _Record:
        with self._changed:
            while True:
                for record in self._records.values():
                    if record.status == QUEUED:
                        record.status, record.started = RUNNING, time.time()
                        return record
                self._changed.wait()

    def _work(self) -> None:
        while True:
            record = self._next()
            status, error = FINISHED, ""
            try:
                result = record.function(record.handle)
                if result:
                    record.handle.result = dict(result)
            except Interrupted:
                status = INTERRUPTED
            except LoraEvalError as problem:
                status, error = FAILED, one_line(problem)
            except BaseException as problem:
                # whatever a host raises, the next job must still run; the console gets the traceback
                traceback.print_exc(file=sys.stderr)
                status, error = FAILED, f"unexpected {type(problem).__name__}: {one_line(problem)}"
            record.handle.unfollow()
            if status == INTERRUPTED and record.handle.paused:
                status, error = PAUSED, record.handle.paused
            with self._changed:
                self._end(record, status, error)


def one_line(error: BaseException) -> str:
    """The error's message without line breaks."""
    return " ".join(str(error).split()) or "no message"


queue = JobQueue()
"""The WebUI's own queue; it survives Reload UI."""
