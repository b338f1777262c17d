"""``demo`` and ``ui``: the shipped example, and both tabs on a page of their own."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lora_eval.cli import common
from lora_eval.cli.exits import GOOD
from lora_eval.errors import ConfigError, HostError, Interrupted
from lora_eval.files import make_folder

if TYPE_CHECKING:
    from lora_eval.training.run import RunPaths


def ui(arguments: argparse.Namespace) -> int:
    """``ui``: both tabs on a page of their own, until Ctrl-C."""
    if importlib.util.find_spec("gradio") is None:
        raise HostError("the page needs gradio; pip install 'lora-eval[ui]'")
    from lora_eval.host.current import Settings, install
    from lora_eval.ui.standalone import launch

    host = common.open_host(arguments, common.Progress(True), arguments.out)
    install(lambda: host, lambda: Settings(language=arguments.language))
    user, _, password = (arguments.auth or "").partition(":")
    if arguments.auth and not (user and password):
        raise ConfigError("--auth is not USER:PASSWORD; write both, for example --auth me:a-long-password")
    if arguments.listen and not arguments.auth:
        print(
            "WARNING: --listen without --auth: everyone who can reach this machine may train, score and read pictures; "
            "add --auth USER:PASSWORD",
            file=sys.stderr,
        )
    login = (user, password) if arguments.auth else None
    launch("0.0.0.0" if arguments.listen else "127.0.0.1", arguments.port, auth=login)
    return GOOD


def demo(arguments: argparse.Namespace) -> int:
    """Train on the shipped drawings with the shipped tiny model, score its checkpoints, write the report.

    A second run on the same folder trains and draws nothing again.
    """
    from lora_eval.scorecard.plan.request import ScoreRequest
    from lora_eval.service.scoring import score as run_score
    from lora_eval.training.config import load_config
    from lora_eval.training.loop import train as run_training
    from lora_eval.training.run import RunPaths

    out: Path = make_folder(arguments.out)
    data = out / "pictures"
    if not data.is_dir():
        shutil.copytree(common.DEMO_DATA, data)
    progress = common.Progress(arguments.quiet)
    host = common.open_host(arguments, progress, out)
    config = load_config(common.DEMO_CONFIG, {"train_data_dir": str(data), "output_dir": str(out / "training")})
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
            ScoreRequest(
                [*checkpoints, trained.final],
                suite="tiny",
                kind=config.kind,
                preset="quick",
                prompts=12,
                batch_size=24,
            ),
            out,
        )
    code = common.show(card, out)
    print(f"LoRA:   {trained.final}")
    return code


def _runs(folder: Path, name: str) -> list[RunPaths]:
    """The training runs of that name that were begun in ``folder``, by name."""
    from lora_eval.training.run import RunPaths

    return [RunPaths(path, path.name) for path in sorted(folder.glob(f"{name}*")) if path.is_dir()]
