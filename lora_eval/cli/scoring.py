"""``score``, ``report``, ``measure``, ``compare``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_eval.cli import common
from lora_eval.cli.exits import GOOD
from lora_eval.errors import ConfigError
from lora_eval.files import read_json
from lora_eval.i18n.language import said, t

if TYPE_CHECKING:
    from lora_eval.host.standalone import StandaloneHost
    from lora_eval.scorecard.plan.request import ScoreRequest


def score(arguments: argparse.Namespace) -> int:
    """``score --lora FILE ... --out DIR``."""
    from lora_eval.service.scoring import score as run_score

    progress = common.Progress(arguments.quiet)
    host = common.open_host(arguments, progress, arguments.out)
    request = _settled(_request(arguments), host)
    with progress.interruptible():
        card = run_score(host, request)
    shown = common.show(card, arguments.out)
    if adaptive := card.provenance.get("adaptive"):
        print(
            f"pictures:    {adaptive['images']} of {adaptive['full_grid']} in the grid; "
            f"{adaptive['stopped']}; {adaptive['more']}"
        )
    return shown


def _request(arguments: argparse.Namespace) -> ScoreRequest:
    from lora_eval.cli.options import flag_of, read_request
    from lora_eval.scorecard.plan.request import SCORE_FIELDS

    steps = SCORE_FIELDS["steps"].metadata
    if arguments.steps is not None and not steps["low"] <= arguments.steps <= steps["high"]:
        raise ConfigError(
            f"{flag_of('steps')} {arguments.steps} is out of range; take {steps['low']:g} to {steps['high']:g}"
        )
    size = _size(arguments.size) if arguments.size is not None else (None, None)
    return read_request(arguments, width=size[0], height=size[1])


def _settled(request: ScoreRequest, host: StandaloneHost) -> ScoreRequest:
    """The request with its budget counted in pictures."""
    from lora_eval.scorecard.plan.presets import grid_preset
    from lora_eval.service import estimate

    assert request.out is not None
    before = _adaptive_budget(request.out) if request.minutes is not None else None
    if before is not None:
        # minutes are counted in pictures once: the speed may be another when the run is continued
        return replace(request, budget=before, minutes=None, preset=grid_preset(request.preset))
    each = None if request.minutes is None else estimate.seconds_each(request.out.parent, request)
    return estimate.settled(request, each, estimate.is_tiny(host))


def _adaptive_budget(out: Path) -> int | None:
    """The budget of the run that is in a folder already."""
    plan = read_json(out / "plan.json") if (out / "plan.json").is_file() else {}
    found = plan.get("budget") if isinstance(plan, dict) else None
    return found if isinstance(found, int) else None


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
    """``measure PICTURES... --out DIR``."""
    from lora_eval.service.measured import MeasureRequest, measure_table

    card = measure_table(
        arguments.table,
        arguments.out,
        MeasureRequest(
            arguments.data,
            arguments.kind,
            arguments.trigger or "",
            arguments.class_word or "",
            lora=arguments.lora or "",
            believe_table=arguments.believe_table,
        ),
        encoder=arguments.encoder,
    )
    for note in card.provenance.get("notes", []):
        print(said(note))
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
