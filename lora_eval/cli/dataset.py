"""``check`` and ``caption``."""

from __future__ import annotations

import argparse
import sys

from lora_eval.cli.common import say
from lora_eval.cli.exits import BAD, GOOD


def check(arguments: argparse.Namespace) -> int:
    """``check DATA_DIR``: findings one a line, errors first; exit 1 when there are errors."""
    from lora_eval.dataset.check import check as run_check
    from lora_eval.dataset.folder import scan
    from lora_eval.options.option import resolution

    encoder = None
    if arguments.encoder is not None:
        from lora_eval.encoders.registry import load_encoder

        encoder = load_encoder(arguments.encoder, say=None if arguments.quiet else say)
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
    from lora_eval.dataset.caption_edit import Edit, diff
    from lora_eval.dataset.captioning import CaptionOrder, caption_folder

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
        say=None if quiet else say,
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
