"""``score``, ``report``, ``measure``, ``compare``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_eval.cli import common
from lora_eval.cli.exits import GOOD
from lora_eval.errors import ConfigError
from lora_eval.files import read_json
from lora_eval.i18n.language import said, t

if TYPE_CHECKING:
    from lora_eval.host.protocol import Sampling
    from lora_eval.host.standalone import StandaloneHost
    from lora_eval.service.order import ScoreOrder


def score(arguments: argparse.Namespace) -> int:
    """``score --lora FILE ... --out DIR``."""
    from lora_eval.service.scoring import score as run_score

    progress = common.Progress(arguments.quiet)
    host = common.open_host(arguments, progress, arguments.out)
    order = _order(arguments, host)
    with progress.interruptible():
        card = run_score(
            host,
            order.loras,
            arguments.out,
            data=arguments.data,
            weights=arguments.weights,
            seeds=order.seeds,
            prompts=order.prompts,
            suite=arguments.suite,
            preset=order.preset,
            kind=arguments.kind,
            trigger=arguments.trigger,
            class_word=arguments.class_word,
            sampling=_sampling(arguments, host),
            batch_size=arguments.batch_size,
            encoder=arguments.encoder,
            budget=order.budget,
            axes=order.axes,
        )
    shown = common.show(card, arguments.out)
    if told := card.provenance.get("adaptive"):
        print(f"pictures:    {told['images']} of {told['full_grid']} in the grid; {told['stopped']}; {told['more']}")
    return shown


def _order(arguments: argparse.Namespace, host: StandaloneHost) -> ScoreOrder:
    """What is counted before drawing: which seeds and prompts, and the budget in pictures."""
    from lora_eval.scorecard.plan.ranges import parse_count
    from lora_eval.service import estimate
    from lora_eval.service.order import ScoreOrder

    order = ScoreOrder(
        arguments.lora,
        weights=arguments.weights,
        seeds=None if arguments.seeds is None else parse_count(arguments.seeds, "--seeds", 0),
        prompts=None if arguments.prompts is None else parse_count(arguments.prompts, "--prompts"),
        suite=arguments.suite,
        preset=arguments.preset,
        kind=arguments.kind,
        axes=estimate.parse_axes(arguments.axes),
        budget=arguments.budget,
        minutes=arguments.minutes,
    )
    before = _adaptive_budget(arguments.out) if arguments.minutes is not None else None
    each = None if arguments.minutes is None else estimate.seconds_each(arguments.out.parent, order)
    if before is not None:
        # minutes are counted in pictures once: the speed may be another when the run is gone on with
        return replace(order, budget=before, minutes=None, preset=estimate.grid_preset(order.preset))
    return estimate.settled(order, each, estimate.is_tiny(host))


def _adaptive_budget(out: Path) -> int | None:
    """The budget of the run that is in a folder already."""
    plan = read_json(out / "plan.json") if (out / "plan.json").is_file() else {}
    found = plan.get("budget") if isinstance(plan, dict) else None
    return found if isinstance(found, int) else None


def _sampling(arguments: argparse.Namespace, host: StandaloneHost) -> Sampling | None:
    """The sampling asked for over the host's own defaults; None when nothing was asked."""
    from dataclasses import replace

    from lora_eval.scorecard.plan.make import default_sampling

    asked: dict[str, Any] = {}
    if arguments.sampler is not None:
        asked["sampler"] = arguments.sampler
    if arguments.steps is not None:
        if not 1 <= arguments.steps <= 1000:
            raise ConfigError(f"--steps {arguments.steps} is out of range; take 1 to 1000")
        asked["steps"] = arguments.steps
    if arguments.cfg is not None:
        asked["cfg_scale"] = arguments.cfg
    if arguments.size is not None:
        asked["width"], asked["height"] = _size(arguments.size)
    return replace(default_sampling(host), **asked) if asked else None


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ConfigError(f"--size {text} is not a size; write width x height, for example 512x768")
    width, height = (int(part) for part in parts)
    if width % 8 or height % 8 or not (64 <= width <= 4096 and 64 <= height <= 4096):
        raise ConfigError(f"--size {text} cannot be drawn; both sides must be multiples of 8 between 64 and 4096")
    return width, height


def report(arguments: argparse.Namespace) -> int:
    """``report RUN_DIR``."""
    from lora_eval.service.scoring import report as run_report

    return common.show(run_report(arguments.run), arguments.run)


def measure(arguments: argparse.Namespace) -> int:
    """``measure CELLS.csv --out DIR``."""
    from lora_eval.service.scoring import measure_table

    card = measure_table(
        arguments.table,
        arguments.out,
        data=arguments.data,
        kind=arguments.kind,
        trigger=arguments.trigger or "",
        class_word=arguments.class_word or "",
        encoder=arguments.encoder,
    )
    return common.show(card, arguments.out)


def compare(arguments: argparse.Namespace) -> int:
    """``compare RUN_DIR RUN_DIR [...] --out DIR``: paired differences, ties declared."""
    from lora_eval.report.comparison import write_comparison
    from lora_eval.report.markup import interval
    from lora_eval.scorecard.comparison.compare import compare as run_compare

    found = run_compare(arguments.runs, arguments.at)
    page = write_comparison(arguments.out, found)
    print(f"\n{said(found.verdict)}")
    pair = ""
    for row in found.rows:
        if pair != (pair := f"{row.first} less {row.second}"):
            print(f"\n{pair}:")
        line = said(row.note)
        if row.difference is not None and row.n:
            value = interval(row.difference, row.ci_low, row.ci_high, 3)
            line = f"{value}  {t(row.ahead)} ({line})" if row.ahead and line else f"{value}  {t(row.ahead) or line}"
        print(f"  {row.dimension:<15} {said(row.measure)}: {line}")
    for note in found.notes:
        print(f"note: {said(note)}")
    print(f"\nReport: {page}")
    return GOOD
