"""What does measuring cost beside drawing? A whole scorecard over the time its pictures took to draw.

    python -m benchmarks scorecard --lora FILE [--prompts 6] [--seeds 4] [--weights "0-1.2 [4]"] [--steps 20]

One run on the shipped tiny model: the time inside the host's ``generate`` is the drawing, all else (plan, files,
features, measures, tables, page) is what the scorecard adds. A tiny model draws a picture in a tenth of a second and
a real one in seconds, while the rest stays what it is: so the added time is also given per picture.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lora_eval.cli.commands import DEMO_DATA
from lora_eval.host.protocol import Drawn, ImageRequest, LoraUse, Sampling
from lora_eval.host.standalone import StandaloneHost
from lora_eval.scorecard.plan.make import default_sampling
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.scoring import score


class TimedHost(StandaloneHost):
    """Counts seconds of wall and of processor spent drawing, and the pictures."""

    wall = processor = 0.0
    pictures = 0

    def generate(
        self, requests: Sequence[ImageRequest], sampling: Sampling, lora: LoraUse | None = None
    ) -> list[Drawn]:
        """As the host's; timed."""
        wall, processor = time.perf_counter(), time.process_time()
        drawn = super().generate(requests, sampling, lora)
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor
        self.pictures += len(drawn)
        return drawn


def ratio(whole: float, drawing: float) -> float:
    """The whole over the drawing; NaN when nothing was drawn."""
    return whole / drawing if drawing > 0 else float("nan")


def main(argv: list[str]) -> int:
    """Print seconds, ratio and what is added per picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scorecard")
    parser.add_argument("--lora", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--weights", default="0-1.2 [4]")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        host = TimedHost(output_folder=folder)
        usual = default_sampling(host)
        sampling = Sampling(**{**vars(usual), "steps": options.steps})
        begun, busy = time.perf_counter(), time.process_time()
        score(
            host,
            ScoreRequest(
                [options.lora],
                data=DEMO_DATA,
                prompts=options.prompts,
                seeds=options.seeds,
                weights=options.weights,
                **vars(sampling),
                preset="quick",
                batch_size=8,
            ),
            Path(folder) / "run",
        )
        wall, processor = time.perf_counter() - begun, time.process_time() - busy
    for name, whole, drawing in (("wall", wall, host.wall), ("processor", processor, host.processor)):
        more = 1000 * (whole - drawing) / max(1, host.pictures)
        print(f"{name}: whole {whole:.1f} s, drawing {drawing:.1f} s, ratio {ratio(whole, drawing):.3f}, "
              f"{more:.1f} ms more for each of {host.pictures} pictures of {options.steps} steps")  # fmt: skip
    return 0
