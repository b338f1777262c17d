"""What each command of the command line does. Every function takes the parsed arguments and returns the exit code."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lora_eval.errors import ConfigError, HostError, Interrupted
from lora_eval.exits import BAD, FAILED, GOOD
from lora_eval.files import make_folder, read_json
from lora_eval.language import said, t
from lora_eval.progress import ConsoleProgress

if TYPE_CHECKING:
    from lora_eval.actions import ScoreOrder
    from lora_eval.host.protocol import Job, Sampling
    from lora_eval.host.standalone import StandaloneHost
    from lora_eval.scorecard.data import Scorecard
    from lora_eval.training.run import RunPaths

DEMO_DATA = Path(__file__).parent / "assets" / "datasets" / "mave"
DEMO_CONFIG = Path(__file__).parent / "assets" / "demo.yaml"


# -- the host ------------------------------------------------------------------------------------


class _Progress:
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


def _host(arguments: argparse.Namespace, progress: _Progress, output: Path | None = None) -> StandaloneHost:
    if importlib.util.find_spec("diffusers") is None:
        raise HostError("the standalone host needs diffusers and transformers; pip install 'lora-eval[standalone]'")
    from lora_eval.host.standalone import StandaloneHost

    model = getattr(arguments, "model", None)
    device = getattr(arguments, "device", "auto")
    return StandaloneHost(model=model, device=device, output_folder=output, progress=progress)


# -- training ------------------------------------------------------------------------------------


def train(arguments: argparse.Namespace) -> int:
    """``train CONFIG.yaml [key=value ...]``; a config of kohya's scripts (TOML) is taken over, too."""
    from lora_eval.training.config import make_config, parse_overrides
    from lora_eval.training.loop import train as run_training
    from lora_eval.training.presets import read_settings
    from lora_eval.training.watch import load_watcher

    values, notes = read_settings(arguments.config)
    config = make_config({**values, **parse_overrides(arguments.overrides)})
    for note in notes:
        _say(f"note: {note}")
    if arguments.model is None:
        arguments.model = config.base_model
    else:
        # asked for on the command line: it wins over the file's own
        config.base_model = None
    progress = _Progress(arguments.quiet)
    # before anything is loaded for it
    config.require()
    host = _host(arguments, progress)
    encoder = load_watcher(host, config, arguments.encoder, None if arguments.quiet else _say)
    with progress.interruptible():
        result = run_training(host, config, resume=arguments.resume, encoder=encoder)
    for note in result.notes:
        print(f"note: {note}")
    print(result.message)
    print(f"LoRA:        {result.lora}")
    print(f"checkpoints: {len(result.checkpoints)} in {result.folder}")
    print(f"history:     {result.history}")
    if result.stopped == "interrupted":
        raise Interrupted
    return BAD if result.stopped == "diverged" else GOOD


def convert(arguments: argparse.Namespace) -> int:
    """``convert FILE.toml [--out CONFIG.yaml]``: kohya's settings as ours; what has no counterpart is named."""
    from lora_eval.files import write_text
    from lora_eval.training.config import make_config, to_yaml
    from lora_eval.training.presets import read_settings

    values, notes = read_settings(arguments.config)
    make_config(values)
    text = to_yaml(values)
    for note in notes:
        _say(f"note: {note}")
    if arguments.out is None:
        print(text, end="")
    else:
        if arguments.out.exists() and not arguments.force:
            raise ConfigError(f"{arguments.out} is there already; name another file, or add --force to replace it")
        write_text(arguments.out, text)
        print(f"written: {arguments.out}")
    return GOOD


def _say(what: str) -> None:
    print(what, file=sys.stderr)


def check(arguments: argparse.Namespace) -> int:
    """``check DATA_DIR``: findings one a line, errors first; exit 1 when there are errors."""
    from lora_eval.dataset.check import check as run_check
    from lora_eval.dataset.folder import scan
    from lora_eval.training.settings import resolution

    encoder = None
    if arguments.encoder is not None:
        from lora_eval.scorecard.embed import load_encoder

        encoder = load_encoder(arguments.encoder, say=None if arguments.quiet else _say)
    dataset = scan(arguments.data, arguments.metadata)
    findings = run_check(
        dataset,
        trigger=arguments.trigger,
        resolution=resolution(arguments.resolution),
        class_word=arguments.class_word,
        held_out=scan(arguments.held_out).items if arguments.held_out is not None else (),
        encoder=encoder,
    )
    for finding in findings:
        print(finding.line())
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    print(f"{len(dataset)} picture(s): {errors} error(s), {warnings} warning(s)")
    return BAD if errors else GOOD


def caption(arguments: argparse.Namespace) -> int:
    """``caption DATA_DIR``: make or edit captions; exit 1 when a picture could not be read."""
    from lora_eval.captioning import CaptionOrder, caption_folder
    from lora_eval.dataset.caption_edit import Edit, diff

    pairs = tuple((old, new) for old, new in arguments.replace)
    edit = Edit(pairs, arguments.regex, tuple(arguments.remove), arguments.prepend, arguments.append)
    order = CaptionOrder(
        trigger=arguments.trigger,
        class_word=arguments.class_word,
        prefix=arguments.prefix,
        overwrite=arguments.overwrite,
        edit=edit,
        form=arguments.write,
        encoder=arguments.encoder,
        terms=arguments.terms,
    )

    def show(done: int, total: int) -> None:
        print(f"\rcaptions: {done}/{total}", end="" if done < total else "\n", file=sys.stderr, flush=True)

    quiet = arguments.quiet
    found = caption_folder(
        arguments.data,
        order,
        dry_run=arguments.dry_run,
        progress=None if quiet else show,
        say=None if quiet else _say,
    )
    if arguments.dry_run and found.changes:
        print(diff(found.changes))
    for line in found.failed:
        print(f"error: {line}")
    for note in found.notes:
        print(f"note: {note}")
    where = f" in {found.written[0] if len(found.written) == 1 else arguments.data}" if found.written else ""
    print(f"{len(found.changes)} caption(s) {'would change' if arguments.dry_run else 'changed'}{where}")
    return BAD if found.failed else GOOD


def curve(arguments: argparse.Namespace) -> int:
    """``curve FILE``: one word and why; exit 1 unless the curve converged or still falls."""
    from lora_eval.training.curve import diagnose
    from lora_eval.training.logs import read_history
    from lora_eval.training.watch import samples_beside

    history = read_history(arguments.file)
    found = diagnose(
        history.step,
        history.loss,
        history.val_loss if len(history.val_loss) else None,
        samples_beside(arguments.file),
        val_step=history.val_step if len(history.val_loss) else None,
        val_error=history.val_error if len(history.val_error) else None,
        averaged=history.averaged,
    )
    if arguments.json:
        print(json.dumps({**asdict(found), "source": history.source}, indent=2, ensure_ascii=False))
    else:
        since = "" if found.since_step is None else f" since step {found.since_step}"
        print(f"{found.state}{since}: {found.reason}")
    if found.state == "too short":
        return FAILED
    return GOOD if found.state in ("converged", "still falling") else BAD


# -- scoring -------------------------------------------------------------------------------------


def score(arguments: argparse.Namespace) -> int:
    """``score --lora FILE ... --out DIR``."""
    from lora_eval.scorecard.run import score as run_score

    progress = _Progress(arguments.quiet)
    host = _host(arguments, progress, arguments.out)
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
    shown = _show(card, arguments.out)
    if told := card.provenance.get("adaptive"):
        print(f"pictures:    {told['images']} of {told['full_grid']} in the grid; {told['stopped']}; {told['more']}")
    return shown


def _order(arguments: argparse.Namespace, host: StandaloneHost) -> ScoreOrder:
    """What is counted before drawing: which seeds and prompts, and the budget in pictures."""
    from lora_eval import estimate
    from lora_eval.actions import ScoreOrder
    from lora_eval.scorecard.ranges import parse_count

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

    from lora_eval.scorecard.planning import default_sampling

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
    from lora_eval.scorecard.run import report as run_report

    return _show(run_report(arguments.run), arguments.run)


def measure(arguments: argparse.Namespace) -> int:
    """``measure CELLS.csv --out DIR``."""
    from lora_eval.scorecard.run import measure_table

    card = measure_table(
        arguments.table,
        arguments.out,
        data=arguments.data,
        kind=arguments.kind,
        trigger=arguments.trigger or "",
        class_word=arguments.class_word or "",
        encoder=arguments.encoder,
    )
    return _show(card, arguments.out)


def _show(card: Scorecard, folder: Path) -> int:
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


def compare(arguments: argparse.Namespace) -> int:
    """``compare RUN_DIR RUN_DIR [...] --out DIR``: paired differences, ties declared."""
    from lora_eval.report.markup import interval
    from lora_eval.scorecard.compare import compare as run_compare
    from lora_eval.scorecard.compare import write_comparison

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


# -- tabs ----------------------------------------------------------------------------------------


def ui(arguments: argparse.Namespace) -> int:
    """``ui``: both tabs on a page of their own, until Ctrl-C."""
    if importlib.util.find_spec("gradio") is None:
        raise HostError("the page needs gradio; pip install 'lora-eval[ui]'")
    from lora_eval.host.current import Settings, install
    from lora_eval.ui.standalone import launch

    host = _host(arguments, _Progress(True), arguments.out)
    install(lambda: host, lambda: Settings(language=arguments.language))
    launch("0.0.0.0" if arguments.listen else "127.0.0.1", arguments.port)
    return GOOD


# -- demo ----------------------------------------------------------------------------------------


def demo(arguments: argparse.Namespace) -> int:
    """Train on the shipped drawings with the shipped tiny model, score its checkpoints, write the report.

    A second run on the same folder trains and draws nothing again.
    """
    from lora_eval.scorecard.run import score as run_score
    from lora_eval.training.config import load_config
    from lora_eval.training.loop import train as run_training
    from lora_eval.training.run import RunPaths

    out: Path = make_folder(arguments.out)
    data = out / "pictures"
    if not data.is_dir():
        shutil.copytree(DEMO_DATA, data)
    progress = _Progress(arguments.quiet)
    host = _host(arguments, progress, out)
    config = load_config(DEMO_CONFIG, {"train_data_dir": str(data), "output_dir": str(out / "training")})
    with progress.interruptible():
        runs = _runs(out / "training", config.name or "")
        trained = next((run for run in runs if run.final.is_file()), None)
        if trained is None:
            print(f"Training on {data} ...")
            result = run_training(host, config, resume=any(run.state.is_file() for run in runs))
            print(result.message)
            if result.stopped == "interrupted":
                raise Interrupted
            trained = RunPaths(result.folder, result.folder.name)
        checkpoints = [path for step, path in trained.checkpoints() if step < (config.max_steps or 0)]
        print("Drawing and measuring the sweep ...")
        card = run_score(
            host,
            [*checkpoints, trained.final],
            out,
            suite="tiny",
            kind=config.kind,
            preset="quick",
            prompts=12,
            batch_size=24,
        )
    code = _show(card, out)
    print(f"LoRA:   {trained.final}")
    return code


def _runs(folder: Path, name: str) -> list[RunPaths]:
    """The training runs of that name that were begun in ``folder``, by name."""
    from lora_eval.training.run import RunPaths

    return [RunPaths(path, path.name) for path in sorted(folder.glob(f"{name}*")) if path.is_dir()]
