"""What the commands share: the host without a WebUI, its progress, the verdict on paper."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from lora_eval.cli.exits import BAD, GOOD
from lora_eval.errors import HostError
from lora_eval.files import ASSETS
from lora_eval.i18n.language import said, t
from lora_eval.service.progress import ConsoleProgress

if TYPE_CHECKING:
    from lora_eval.host.protocol import Job
    from lora_eval.host.standalone import StandaloneHost
    from lora_eval.scorecard.data import Scorecard

DEMO_DATA = ASSETS / "datasets" / "mave"
DEMO_CONFIG = ASSETS / "demo.yaml"


class Progress:
    """Shows the job and passes Ctrl-C on to it, so that the running step is finished and kept."""

    def __init__(self, quiet: bool) -> None:
        self._show = None if quiet else ConsoleProgress()
        self._job: Job | None = None

    def __call__(self, job: Job) -> None:
        self._job = job
        if self._show is not None:
            self._show(job)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """The first Ctrl-C asks the job to stop, the second ends the program as usual."""

        def stop(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, before)
            if self._job is None:
                raise KeyboardInterrupt
            print("stopping after this step; press Ctrl-C again to stop at once", file=sys.stderr)
            self._job.interrupt()

        before = signal.getsignal(signal.SIGINT)
        try:
            signal.signal(signal.SIGINT, stop)
        except ValueError:
            # not the main thread: signals are somebody else's matter
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def open_host(arguments: argparse.Namespace, progress: Progress, output: Path | None = None) -> StandaloneHost:
    """The host of ``--model`` and ``--device``. Raises HostError where diffusers is not installed."""
    if importlib.util.find_spec("diffusers") is None:
        raise HostError("the standalone host needs diffusers and transformers; pip install 'lora-eval[standalone]'")
    from lora_eval.host.standalone import StandaloneHost

    model = getattr(arguments, "model", None)
    device = getattr(arguments, "device", "auto")
    return StandaloneHost(model=model, device=device, output_folder=output, progress=progress)


def say(what: str) -> None:
    """A line that is no result: to stderr."""
    print(what, file=sys.stderr)


def show(card: Scorecard, folder: Path) -> int:
    """Print the verdict, the six dimensions and the advice. Good when a weight can be recommended."""
    print(f"\n{said(card.verdict)}\n")
    for name, dimension in card.dimensions.items():
        if dimension.score is None:
            print(f"  {name:<15} {said(f'not measured: {dimension.reason}')}")
            continue
        low, high = dimension.ci_low, dimension.ci_high
        interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
        print(f"  {name:<15} {dimension.score:.2f}{interval}  {said(dimension.verdict)}: {said(dimension.reason)}")
    if card.advice:
        print(f"\n{t('What to change next time')}:")
        for advice in card.advice:
            print(f"  {advice.dimension}: {said(advice.seen)} -> {said(advice.change)}")
    print(f"\nReport: {folder / 'report.html'}")
    return GOOD if card.weight is not None else BAD
