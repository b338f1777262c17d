"""Progress of a job on a terminal: one line that redraws itself, or a line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from lora_eval.host.protocol import Job


def clock_text(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    whole = int(seconds + 0.5)
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


def progress_text(job: Job) -> str:
    """One line: title, share done, time used, time left, what is going on."""
    eta = "" if job.eta is None else f", {clock_text(job.eta)} left"
    detail = f"  {job.text}" if job.text else ""
    share = f"{job.done}/{job.total} ({job.done / job.total:.0%})"
    return f"{job.title}: {share}, {clock_text(job.seconds)}{eta}{detail}"


class ConsoleProgress:
    """Callable that hosts report a job to. Redraws in place on a terminal, logs every ``every`` seconds elsewhere."""

    def __init__(self, stream: TextIO | None = None, every: float = 5.0) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._every = 0.1 if self._live else every
        self._last = float("-inf")
        self._width = 0

    def __call__(self, job: Job) -> None:
        """Show the job, unless it was shown a moment ago; the last state is always shown."""
        now = time.monotonic()
        finished = job.done >= job.total
        if not finished and now - self._last < self._every:
            return
        self._last = now
        line = progress_text(job)
        if self._live:
            self._stream.write("\r" + line.ljust(self._width) + ("\n" if finished else ""))
            self._width = 0 if finished else len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
