"""The command line: ``python -m lora_eval COMMAND``.

Exit codes: 0 good, 1 the thing asked about is bad, 2 the command could not run, 130 interrupted
(what was done is kept). An error is one line on standard error; ``--debug`` adds the traceback.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lora_eval import __version__
from lora_eval.cli.exits import FAILED, STOPPED
from lora_eval.cli.options import add_score_options
from lora_eval.encoders.choices import CHOICES
from lora_eval.errors import Interrupted, LoraEvalError
from lora_eval.i18n.language import ENGLISH, names, speak
from lora_eval.log import logger


class _Parser(argparse.ArgumentParser):
    """Argument errors in the same one-line form as every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"error: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error and the log")
    common.add_argument("--quiet", action="store_true", help="no progress lines")
    common.add_argument(
        "--language",
        choices=names(),
        default=ENGLISH,
        help="of reports and verdicts (default: en); files stay as they are",
    )
    model = _Parser(add_help=False)
    model.add_argument(
        "--model", metavar="PATH", help="checkpoint (.safetensors) or diffusers folder; default: the shipped tiny model"
    )
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")

    parser = _Parser(
        prog="lora-eval",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lora-eval {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    demo = commands.add_parser(
        "demo", parents=[common], help="train and score the shipped example, in minutes on two cores"
    )
    demo.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="where everything goes (default: demo)"
    )

    train = commands.add_parser("train", parents=[common, model], help="train a LoRA from a YAML config")
    train.add_argument("config", type=Path, metavar="CONFIG.yaml", help="or a .toml of kohya's scripts")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file")
    train.add_argument("--resume", action="store_true", help="go on where an interrupted run of this config stopped")
    train.add_argument(
        "--encoder", default="auto", help=f"what measures the test pictures (measure_samples): {CHOICES}"
    )

    convert = commands.add_parser(
        "convert", parents=[common], help="show a config of kohya's scripts (TOML) as one of ours (YAML)"
    )
    convert.add_argument("config", type=Path, metavar="FILE.toml")
    convert.add_argument("--out", type=Path, metavar="CONFIG.yaml", help="write it there (default: print it)")
    convert.add_argument("--force", action="store_true", help="replace the file that is there")

    check = commands.add_parser("check", parents=[common], help="check a dataset; exit 1 when it has errors")
    check.add_argument("data", type=Path, metavar="DATA_DIR")
    check.add_argument(
        "--metadata", type=Path, metavar="CSV", help="captions table (default: DATA_DIR/metadata.csv if there)"
    )
    check.add_argument("--trigger", default=None, help="trigger word that every caption should hold")
    check.add_argument("--class-word", default=None, help="ordinary word for the subject; may stand in every caption")
    check.add_argument(
        "--resolution", default="512", metavar="WxH", help="size trained at: side or width x height (default: 512)"
    )
    check.add_argument("--held-out", type=Path, metavar="DIR", help="validation pictures; none may be in both")
    check.add_argument("--encoder", metavar="NAME", help=f"also judge how varied the pictures are: {CHOICES}")

    caption = commands.add_parser(
        "caption", parents=[common], help="write captions for pictures that have none, or edit those that are there"
    )
    caption.add_argument("data", type=Path, metavar="DATA_DIR")
    caption.add_argument("--trigger", default="", help="word in front of every caption that is made")
    caption.add_argument("--class-word", default="", help="what the trigger is, for example 'woman'; follows it")
    caption.add_argument("--prefix", action="store_true", help="put the trigger in front of captions already there too")
    caption.add_argument("--overwrite", action="store_true", help="make captions anew where there are some")
    caption.add_argument("--write", choices=["csv", "txt"], help="metadata.csv or sidecars (default: the folder's own)")
    caption.add_argument(
        "--replace",
        nargs=2,
        action="append",
        default=[],
        metavar=("OLD", "NEW"),
        help="find and replace in captions that are there; may be given again; no captions are made then",
    )
    caption.add_argument("--regex", action="store_true", help="OLD is a regular expression, NEW may say \\1")
    caption.add_argument("--remove", action="append", default=[], metavar="TERM", help="take a word or phrase out")
    caption.add_argument("--prepend", default="", metavar="TEXT", help="put in front where it is not there yet")
    caption.add_argument("--append", default="", metavar="TEXT", help="put behind where it is not there yet")
    caption.add_argument("--dry-run", action="store_true", help="show what would change and change nothing")
    caption.add_argument("--encoder", default="auto", help=CHOICES)
    caption.add_argument("--terms", type=Path, metavar="FILE", help="YAML of caption terms (default: the shipped list)")

    score = commands.add_parser(
        "score", parents=[common, model], help="draw a sweep and write the scorecard; again on the same folder resumes"
    )
    add_score_options(score)

    report = commands.add_parser(
        "report", parents=[common], help="measure a run again and write its reports, from the images alone"
    )
    report.add_argument("run", type=Path, metavar="RUN_DIR")

    measure = commands.add_parser(
        "measure", parents=[common], help="score pictures drawn elsewhere (the WebUI, its X/Y/Z plot, ComfyUI)"
    )
    measure.add_argument(
        "table",
        type=Path,
        nargs="+",
        metavar="PICTURES",
        help="a folder of pictures, pictures, a list of their paths, or a table with the column image; what else is "
        "known (prompt, seed, weight, checkpoint, step, role, prompt_id) stands in the table or in the pictures",
    )
    measure.add_argument("--data", type=Path, metavar="DIR", help="reference pictures")
    measure.add_argument("--kind", choices=["style", "character", "object"], default="object")
    measure.add_argument("--trigger", help="trigger word in the prompts")
    measure.add_argument("--class-word", help="what stands in its place when CLIP is asked")
    measure.add_argument("--lora", help="the LoRA that is judged, where pictures were drawn with several")
    measure.add_argument(
        "--believe-table",
        action="store_true",
        help="take the table's word; what the pictures say of themselves is not read",
    )
    measure.add_argument("--encoder", default="auto", help=CHOICES)
    measure.add_argument("--out", type=Path, required=True, metavar="DIR")

    curve = commands.add_parser(
        "curve", parents=[common], help="name the state of a loss curve; exit 1 unless it converged or still falls"
    )
    curve.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="history.csv, or another trainer's log: TensorBoard, CSV, JSON lines, console",
    )
    curve.add_argument("--json", action="store_true", help="print JSON")

    compare = commands.add_parser(
        "compare",
        parents=[common],
        help="set two or more scored LoRAs side by side, paired by prompt and seed as far as they share them",
    )
    compare.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN_DIR",
        help="folders that score or measure made; one may be named twice with --at",
    )
    compare.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="NAME:WEIGHT",
        help="checkpoint and weight in place of a run's recommendation; once for each run, in order, or once for "
        "the run that has that checkpoint",
    )
    compare.add_argument("--out", type=Path, required=True, metavar="DIR")

    page = commands.add_parser("ui", parents=[common, model], help="open both tabs without a WebUI")
    page.add_argument("--port", type=int, help="port of the page (default: 7862)")
    page.add_argument("--listen", action="store_true", help="let other machines open the page, not this one alone")
    page.add_argument("--auth", metavar="USER:PASSWORD", help="ask everyone who opens the page for these")
    page.add_argument("--out", type=Path, metavar="DIR", help="where runs and LoRAs go (default: outputs)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; never raises for a user's mistake."""
    arguments = build_parser().parse_args(argv)
    if arguments.debug:
        logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s: %(message)s")
        logger.setLevel(logging.DEBUG)
    # imported late so that --help and a typing error answer at once
    from lora_eval.cli import commands

    try:
        with speak(arguments.language):
            return int(getattr(commands, arguments.command)(arguments))
    except Interrupted:
        print("interrupted: what is done is kept; the same command goes on from here", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        # the reader of our output left (`lora-eval ... | head`); there is nobody to tell
        sys.stderr.close()
        return FAILED
    except LoraEvalError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        line = str(error).strip().split("\n")[0] or "no message"
        print(
            f"error: unexpected {type(error).__name__}: {line}; run again with --debug and report it", file=sys.stderr
        )
        return FAILED
