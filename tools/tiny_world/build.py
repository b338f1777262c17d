"""Build the tiny world: ``python -m tools.tiny_world.build [all|tokenizer|vae|reader|clip|unet|datasets|report]``.

Seeded; runs on a CPU; prints measured quality. ``unet`` and ``reader`` need the VAE, ``report`` needs all.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

PARTS = ("tokenizer", "vae", "reader", "clip", "unet", "datasets", "report")


def write_datasets(out: Path, count: int = 30, seed: int = 0) -> None:
    """Example datasets: PNGs and metadata.csv with the columns file_name, prompt."""
    from .drawings import STYLES, SUBJECTS, dataset, render

    for concept in (*SUBJECTS, *STYLES):
        folder = out / concept
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["file_name", "prompt"])
            for k, (drawing, text) in enumerate(dataset(concept, count, seed)):
                name = f"{concept}-{k:02d}.png"
                render(drawing).save(folder / name, optimize=True)
                rows.writerow([name, text])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["all"], choices=("all", *PARTS), metavar="part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), help="more make runs differ in rounding"
    )
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the UNet: 1.6 times faster, needs a C++ compiler"
    )
    parser.add_argument("--steps", type=int, help="override the number of steps of one part")
    args = parser.parse_args(argv)

    import torch

    from . import export

    torch.set_num_threads(args.threads)
    override = {"steps": args.steps} if args.steps else {}
    for part in PARTS if "all" in args.parts else [p for p in PARTS if p in args.parts]:
        print(f"== {part}", flush=True)
        if part == "tokenizer":
            from . import tokenizer

            print(tokenizer.write(export.SD / "tokenizer"), "tokens")
        elif part == "vae":
            from . import vae

            vae.train(export.SD / "vae", args.seed)
        elif part == "reader":
            from . import reader

            reader.train(seed=args.seed, **override)
        elif part == "clip":
            from . import clip

            clip.train(seed=args.seed, **override)
        elif part == "unet":
            from . import diffusion

            diffusion.train(seed=args.seed, compile_unet=args.compile, **override)
        elif part == "datasets":
            write_datasets(export.DATASETS)
        else:
            from . import report

            report.run()


if __name__ == "__main__":
    main()
