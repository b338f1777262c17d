"""Is the shipped example truly learned? What the attribute reader sees on plain prompts, weight by weight.

    python -m benchmarks concept [--lora FILE] [--weights "0-1.25 [6]"] [--prompts 49]

Without --lora it trains the demo's LoRA first, with the demo's settings. The reader is a classifier of true
drawings that the product never uses; the prompts name colour, background and place, one of each pair once.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from lora_eval.cli.commands import DEMO_CONFIG, DEMO_DATA
from lora_eval.host.protocol import ImageRequest, LoraUse
from lora_eval.host.standalone import StandaloneHost
from lora_eval.scorecard.plan.make import default_sampling
from lora_eval.scorecard.plan.ranges import parse_range
from lora_eval.service.progress import ConsoleProgress
from lora_eval.training.config import load_config
from lora_eval.training.loop import train
from tools.tiny_world.drawings import BACKGROUNDS, COLOURS, POSITIONS
from tools.tiny_world.reader import Reader

BATCH = 24


def prompts(trigger: str, count: int) -> list[tuple[str, dict[str, str]]]:
    """(prompt, attributes asked for), every colour before every background, places in turn."""
    places = list(POSITIONS)
    words = {"left": "on the left", "center": "in the center", "right": "on the right"}
    found = []
    for i, colour in enumerate(COLOURS):
        for j, background in enumerate(BACKGROUNDS):
            place = places[(i + j) % len(places)]
            text = f"a plain {colour} {trigger} {words[place]}, {background} background"
            asked = {"shape": trigger, "colour": colour, "background": background, "position": place}
            found.append((text, asked))
    step = max(1, len(found) // count)
    return found[::step][:count]


def main(argv: list[str]) -> int:
    """Print the table; 0 when at most 25 % at weight 0 and at least 80 % at weight 1 are the concept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks concept")
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--weights", default="0-1.25 [6]")
    parser.add_argument("--prompts", type=int, default=49)
    parser.add_argument("--seed", type=int, default=1000, help="seed of the first picture")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        host = StandaloneHost(output_folder=folder, progress=ConsoleProgress())
        config = load_config(DEMO_CONFIG, {"train_data_dir": str(DEMO_DATA)})
        trigger = config.trigger
        if options.lora is None:
            result = train(host, config)
            print(f"trained: {result.message}")
            options.lora = result.lora
        asked = prompts(trigger, options.prompts)
        reader = Reader.load()
        classes = list(reader.classes["shape"])
        print(f"{len(asked)} plain prompts, seeds from {options.seed}, {options.lora.name}")
        print(f"weight  P({trigger})  {trigger}   colour  background  position")
        shares = {}
        for weight in sorted({0.0, 1.0, *parse_range(options.weights)}):
            use = None if weight == 0 else LoraUse(options.lora, weight)
            images = []
            for start in range(0, len(asked), BATCH):
                batch = [
                    ImageRequest(text, options.seed + start + k)
                    for k, (text, _) in enumerate(asked[start : start + BATCH])
                ]
                images += [one.image for one in host.generate(batch, default_sampling(host), use)]
            seen = reader.read(images)
            concept = seen["shape"][:, classes.index(trigger)]
            right = {
                name: float(
                    np.mean(
                        [
                            reader.classes[name][row.argmax()] == want[name]
                            for row, (_, want) in zip(seen[name], asked, strict=True)
                        ]
                    )
                )
                for name in ("shape", "colour", "background", "position")
            }
            shares[weight] = right["shape"]
            print(
                f"{weight:6.2f}  {concept.mean():7.2f}  {right['shape']:4.0%}  {right['colour']:6.0%}  "
                f"{right['background']:10.0%}  {right['position']:8.0%}"
            )
    learned = shares[0.0] <= 0.25 and shares[1.0] >= 0.80
    print("learned" if learned else "NOT learned", f"({shares[0.0]:.0%} at weight 0, {shares[1.0]:.0%} at weight 1)")
    return 0 if learned else 1
