"""Command line flags of the WebUI that LoRA Eval adds."""

import argparse


def preload(parser: argparse.ArgumentParser) -> None:
    """Called by the WebUI before it reads its command line."""
    parser.add_argument(
        "--lora-eval-output-dir",
        default=None,
        metavar="DIR",
        help="where LoRA Eval keeps its run folders (default: lora-eval in the WebUI's outputs)",
    )
    parser.add_argument(
        "--lora-eval-allow-dir",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder that REST calls of LoRA Eval may read pictures from and write runs to; may be repeated",
    )
