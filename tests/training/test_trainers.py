"""Every trainer's log is read under its own names, and what a resume or an epoch does to the counter is undone."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from lora_eval.cli.training import curve
from lora_eval.errors import RunError
from lora_eval.training.logs import read_history
from tests.training.test_logs import event_file

STEPS = np.arange(1, 301)
LOSS = (0.1 + 0.15 * np.exp(-STEPS / 60)) * np.random.default_rng(7).lognormal(0, 0.2, len(STEPS))


def bar(title: str, at: int, total: int, words: str) -> str:
    return f"{title}:  9%|#| {at}/{total} [00:10<01:00,  1.2it/s, {words}]"


def bars(title: str, words: str) -> str:
    return "\r".join(bar(title, int(s), 300, words.format(v)) for s, v in zip(STEPS, LOSS, strict=True))


def csv(header: str, *columns: np.ndarray | str) -> str:
    rows = ([c if isinstance(c, str) else f"{c[i]:.6g}" for c in columns] for i in range(len(STEPS)))
    return header + "\n" + "\n".join(",".join(row) for row in rows) + "\n"


TEXTS = {
    # TensorBoard's own download of one scalar
    "run-fox-tag-loss_current.csv": csv("Wall time,Step,Value", 1.7e9 + STEPS, STEPS, LOSS),
    # wandb/wandb#5349: bounds stand beside every column
    "wandb.csv": csv(
        ",".join(f'"{name}"' for name in ("Step", *(f"fox - loss/current{end}" for end in ("", "__MIN", "__MAX")))),
        STEPS, LOSS, LOSS / 2, LOSS * 2,
    ),
    # hako-mikan/sd-webui-traintrain, trainer/train.py
    "traintrain.csv": "network_rank,16\nmode,LoRA\n" + csv("Step,Loss,Learning Rate 1", STEPS, LOSS, "0.0001"),
    "semicolon.csv": csv("step,loss", STEPS, LOSS).replace(",", ";"),
    # ostris/ai-toolkit, BaseSDTrainProcess
    "aitoolkit.log": bars("my_lora", "lr: 1.0e-04 loss: {:.5e}"),
    # huggingface/diffusers, examples/text_to_image
    "diffusers.log": bars("Steps", "lr=0.0001, step_loss={:.6g}"),
    "kohya.log": bars("steps", "avr_loss={:.6g}"),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", TEXTS)
def test_tables_and_console_logs_of_every_trainer_are_read(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_bytes(TEXTS[name].encode(encoding))
    history = read_history(path)
    assert history.step.tolist() == STEPS.tolist()
    assert history.loss == pytest.approx(LOSS, rel=1e-4)
    assert history.averaged == (name in ("kohya.log", "traintrain.csv"))
    assert history.parts == 1 and history.files == [path]


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("loss/current", "loss/validation/step_average"),
        ("loss/train_step", "loss/validation_step/total_average"),
        ("loss/train_step", "loss/validation_step/fox"),
        ("train_loss", "val/loss"),
        ("train/loss", "eval/loss"),
    ],
)
def test_event_files_of_every_trainer_are_read_with_their_validation(
    tmp_path: Path, train: str, validation: str
) -> None:
    scalars = [(train, int(s), float(v)) for s, v in zip(STEPS, LOSS, strict=True)]
    scalars += [(validation, s, 0.2) for s in range(30, 301, 30)]
    # more points than either, and neither of them
    scalars += [("smooth_loss/other", s, 0.5) for s in range(900)]
    history = read_history(event_file(tmp_path / "events.out.tfevents.1", scalars))
    assert history.source == f"TensorBoard {train}, {validation}"
    assert len(history.step) == 300 and history.val_step.tolist() == list(range(30, 301, 30))
    assert any("smooth_loss/other (900)" in note for note in history.notes)


def json_lines(path: Path) -> Path:
    lines = []
    for s, v in zip(STEPS.tolist(), LOSS, strict=True):
        line: dict[str, object] = {"it": s, "ep": 1 + s // 60, "train": {"loss": float(v), "lr": 1e-4}}
        lines.append(json.dumps(line | ({"eval": {"loss": 0.2}} if s % 30 == 0 else {})))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_json_lines_are_read_with_their_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = json_lines(tmp_path / "log.jsonl")
    history = read_history(path)
    assert history.step.tolist() == STEPS.tolist() and history.loss == pytest.approx(LOSS)
    assert history.val_step.tolist() == list(range(30, 301, 30)) and set(history.val_loss) == {0.2}
    assert set(history.lr) == {1e-4} and not history.averaged and history.notes == []
    curve(Namespace(file=path, json=False))
    read = capsys.readouterr().out.splitlines()[1]
    assert read == (f"read: {path}: JSON lines train/loss, eval/loss: 300 points (step 1 to 300), 10 validations")


def test_concepts_without_a_total_are_averaged(tmp_path: Path) -> None:
    scalars = [("loss/train_step", s, 0.1) for s in range(1, 21)]
    for name, value in (("fox", 0.2), ("owl", 0.4)):
        scalars += [(f"loss/validation_step/{name}", s, value) for s in (10, 20)]
    history = read_history(event_file(tmp_path / "events.out.tfevents.1", scalars))
    assert history.val_loss == pytest.approx([0.3, 0.3]) and "mean of 2" in history.source


@pytest.mark.parametrize("ordered", [True, False])
def test_validation_counted_in_epochs_is_put_at_its_step(tmp_path: Path, ordered: bool) -> None:
    """sd-scripts writes the epoch as TensorBoard's step; kohya-ss/sd-scripts#1864."""
    train = [("loss/current", int(s), float(v)) for s, v in zip(STEPS, LOSS, strict=True)]
    val = [("loss/validation/epoch_average", e, 0.2) for e in range(1, 13)]
    scalars = train + val
    if ordered:
        scalars = [x for e in range(12) for x in (*train[e * 25 : e * 25 + 25], val[e])]
    history = read_history(event_file(tmp_path / "events.out.tfevents.1", scalars))
    assert history.val_step.tolist() == list(range(25, 301, 25)) and history.unit == "step"
    assert any("counts epochs" in note for note in history.notes)


def test_a_table_of_epochs_says_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.csv"
    path.write_text(csv("epoch,train_loss", STEPS, LOSS))
    assert read_history(path).unit == "epoch"
    curve(Namespace(file=path, json=False))
    first, read = capsys.readouterr().out.splitlines()[:2]
    assert "since epoch" in first and "step " not in first.replace("step noise", "") and "epoch 1 to 300" in read


def two_parts(kind: str, folder: Path, first: np.ndarray, second: np.ndarray) -> Path:
    parts = [list(enumerate(part, 1)) for part in (first, second)]
    if kind == "events":
        for number, part in enumerate(parts, 9):
            # a later second may sort before an earlier one as text
            event_file(folder / f"events.out.tfevents.{number}.host", [("loss/current", s, float(v)) for s, v in part])
        return folder
    if kind == "table":
        (folder / "history.csv").write_text("step,loss\n" + "".join(f"{s},{v}\n" for p in parts for s, v in p))
        return folder / "history.csv"
    lines = [bar("steps", s, len(p), f"avr_loss={v:.9g}") for p in parts for s, v in p]
    (folder / "train.log").write_text("\r".join(lines))
    return folder / "train.log"


@pytest.mark.parametrize("cut", [100, 180])
@pytest.mark.parametrize("kind", ["events", "table", "console"])
def test_a_resumed_run_whose_counter_restarts_is_joined(tmp_path: Path, kind: str, cut: int) -> None:
    """kohya-ss/sd-scripts#14, Akegarasu/lora-scripts#698, TheLastBen/fast-stable-diffusion#871."""
    history = read_history(two_parts(kind, tmp_path, LOSS[:cut], LOSS[cut:]))
    assert history.step.tolist() == STEPS.tolist() and history.loss == pytest.approx(LOSS)
    assert history.parts == 2 and any("starts anew" in note for note in history.notes)


@pytest.mark.parametrize("kind", ["events", "table", "console"])
def test_a_second_run_that_begins_anew_is_not_joined_to_the_first(tmp_path: Path, kind: str) -> None:
    history = read_history(two_parts(kind, tmp_path, LOSS, LOSS[:200]))
    assert history.step.tolist() == STEPS[:200].tolist() and history.parts == 1
    assert any("(300 points) is left out" in note for note in history.notes)


def test_a_resume_from_an_older_checkpoint_replaces_what_followed_it(tmp_path: Path) -> None:
    rows = [(s, 1.0) for s in range(1, 101)] + [(s, 2.0) for s in range(81, 91)]
    path = tmp_path / "history.csv"
    path.write_text("step,loss\n" + "".join(f"{s},{v}\n" for s, v in rows))
    history = read_history(path)
    assert history.step[-1] == 90 and history.loss[80:].tolist() == [2.0] * 10
    assert history.notes == ["resumed at step 81: 20 older points from there on are replaced"]


def test_epochs_of_a_console_log_follow_each_other(tmp_path: Path) -> None:
    """OneTrainer's bar counts the steps of one epoch; of its two losses the average is read."""
    lines = [bar("step", i % 30 + 1, 30, f"loss={v:.6g}, smooth loss={v / 2:.6g}") for i, v in enumerate(LOSS)]
    path = tmp_path / "console.log"
    path.write_text("\r".join(lines))
    history = read_history(path)
    assert history.step.tolist() == STEPS.tolist() and history.averaged
    assert history.loss == pytest.approx(LOSS / 2, rel=1e-4)
    assert any("10 epochs of 30 steps" in n for n in history.notes) and any(
        "left out: loss" in n for n in history.notes
    )


def test_of_several_log_folders_the_newest_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    for number, name in ((100, "b_first"), (200, "a_second")):
        (tmp_path / name).mkdir()
        event_file(tmp_path / name / f"events.out.tfevents.{number}.host", [("loss", s, 0.1) for s in range(number)])
    history = read_history(tmp_path)
    assert len(history.step) == 200
    assert any("the newest, a_second, was read; left out: b_first" in note for note in history.notes)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("two.csv", "Step,fox - loss,owl - loss\n1,0.1,0.2\n", "2 runs"),
        ("run-fox-tag-lr_unet.csv", "Wall time,Step,Value\n1,1,0.1\n", "lr_unet, which is no loss"),
        ("pre.csv", "network_rank,16\nStep,Loss\n1,0.1\n2,abc\n", "line 4"),
    ],
)
def test_what_cannot_be_decided_is_an_error_in_one_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match=words) as caught:
        read_history(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
