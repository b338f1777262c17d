"""``train``, ``convert``, ``curve``."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict

from lora_eval.cli import common
from lora_eval.cli.exits import BAD, FAILED, GOOD
from lora_eval.errors import ConfigError, Interrupted


def train(arguments: argparse.Namespace) -> int:
    """``train CONFIG.yaml [key=value ...]``; a config of kohya's scripts (TOML) is taken over, too."""
    from lora_eval.training.config import make_config, parse_overrides
    from lora_eval.training.loop import train as run_training
    from lora_eval.training.presets import read_settings
    from lora_eval.training.watch import load_watcher

    values, notes = read_settings(arguments.config)
    config = make_config({**values, **parse_overrides(arguments.overrides)})
    for note in notes:
        common.say(f"note: {note}")
    if arguments.model is None:
        arguments.model = config.base_model
    else:
        # asked for on the command line: it wins over the file's own
        config.base_model = None
    progress = common.Progress(arguments.quiet)
    # before anything is loaded for it
    config.require()
    host = common.open_host(arguments, progress)
    encoder = load_watcher(host, config, arguments.encoder, None if arguments.quiet else common.say)
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
        common.say(f"note: {note}")
    if arguments.out is None:
        print(text, end="")
    else:
        if arguments.out.exists() and not arguments.force:
            raise ConfigError(f"{arguments.out} is there already; name another file, or add --force to replace it")
        write_text(arguments.out, text)
        print(f"written: {arguments.out}")
    return GOOD


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
        read = {
            "files": [str(file) for file in history.files],
            "unit": history.unit,
            "points": len(history.step),
            "validations": len(history.val_step),
            "parts": history.parts,
            "notes": history.notes,
        }
        print(json.dumps({**asdict(found), "source": history.source, "read": read}, indent=2, ensure_ascii=False))
    else:
        reason = found.reason
        if history.unit == "epoch":
            # the diagnosis counts in the unit of its input and calls it a step
            reason = re.sub(r"\bstep(s?) (\d)", r"epoch\1 \2", reason)
        since = "" if found.since_step is None else f" since {history.unit} {found.since_step}"
        print(f"{found.state}{since}: {reason}")
        where = ", ".join(str(file) for file in history.files)
        span = f" ({history.unit} {history.step[0]:g} to {history.step[-1]:g})" if len(history.step) else ""
        joined = f", {history.parts} parts joined" if history.parts > 1 else ""
        counts = f"{len(history.step)} points{span}, {len(history.val_step)} validations{joined}"
        print(f"read: {where}: {history.source}: {counts}")
        for note in history.notes:
            print(f"note: {note}")
    if found.state == "too short":
        return FAILED
    return GOOD if found.state in ("converged", "still falling") else BAD
