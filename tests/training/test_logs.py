"""Histories from our CSV, TensorBoard files (checked against TensorBoard's reader), JSON lines and kohya's text log."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.errors import RunError
from lora_eval.training.curve import diagnose
from lora_eval.training.events import _masked_crc, read_scalars
from lora_eval.training.logs import read_history


def field(number: int, kind: int, content: bytes) -> bytes:
    return bytes([number << 3 | kind]) + content


def message(number: int, content: bytes) -> bytes:
    return field(number, 2, varint(len(content)) + content)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def event(tag: str, step: int, value: float) -> bytes:
    """An Event as protobuf's documentation lays it out; independent of the reader."""
    scalar = message(1, tag.encode()) + field(2, 5, struct.pack("<f", value))
    return field(1, 1, struct.pack("<d", 1.5e9)) + field(2, 0, varint(step)) + message(5, message(1, scalar))


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked_crc(length)) + data + struct.pack("<I", _masked_crc(data))


def event_file(path: Path, scalars: list[tuple[str, int, float]]) -> Path:
    version = field(1, 1, struct.pack("<d", 1.5e9)) + message(3, b"brain.Event:2")
    path.write_bytes(record(version) + b"".join(record(event(*s)) for s in scalars))
    return path


def test_crc_is_castagnoli_as_the_standard_gives_it() -> None:
    """CRC-32C of "123456789" is E3069283 (RFC 3720), then TFRecord's mask."""
    crc = 0xE3069283
    assert _masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@given(
    st.lists(
        st.tuples(st.sampled_from(["loss", "lr/unet", "ä/b"]), st.integers(0, 2**40), st.floats(-1e3, 1e3, width=32))
    )
)
def test_scalars_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, scalars: list[tuple[str, int, float]]
) -> None:
    path = event_file(tmp_path_factory.mktemp("tb") / "events.out.tfevents.1.host", scalars)
    assert list(read_scalars(path)) == scalars


def test_tensorboards_own_reader_reads_the_same(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))
    rng = np.random.default_rng(0)
    for step in range(300):
        value = [Summary.Value(tag="loss/current", simple_value=float(rng.lognormal()))]
        if step % 50 == 0:
            value.append(Summary.Value(tag="loss/validation/epoch_average", simple_value=float(rng.random())))
        writer.add_event(Event(step=step, wall_time=1.5e9 + step, summary=Summary(value=value)))
    writer.close()
    theirs = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    theirs.Reload()
    ours = read_history(tmp_path)
    expected = theirs.Scalars("loss/current")
    assert ours.step.tolist() == [e.step for e in expected]
    assert ours.loss.tolist() == [e.value for e in expected]
    assert ours.val_loss.tolist() == [e.value for e in theirs.Scalars("loss/validation/epoch_average")]
    assert "loss/current" in ours.source and not ours.averaged


def test_scalar_tensors_of_tf2_are_read(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    writer = EventFileWriter(str(tmp_path))
    for step, kind in enumerate((np.float32, np.float64)):
        tensor = make_tensor_proto(kind(0.25 + step))
        writer.add_event(Event(step=step, summary=Summary(value=[Summary.Value(tag="loss", tensor=tensor)])))
    image = make_tensor_proto(np.zeros(3, dtype=np.float32))
    writer.add_event(Event(step=9, summary=Summary(value=[Summary.Value(tag="loss", tensor=image)])))
    writer.close()
    assert read_history(tmp_path).loss.tolist() == [0.25, 1.25]


def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("train/loss", 0.1 * step, step)
    assert read_history(tmp_path).loss == pytest.approx(0.1 * np.arange(5))


def test_a_record_cut_off_by_a_killed_training_ends_the_reading(tmp_path: Path) -> None:
    path = event_file(tmp_path / "events.out.tfevents.1", [("loss", s, float(s)) for s in range(10)])
    data = path.read_bytes()
    path.write_bytes(data[:-7])
    assert [step for _, step, _ in read_scalars(path)] == list(range(9))


def test_a_damaged_or_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.2"
    path.write_bytes(b"this is not a TFRecord file at all")
    with pytest.raises(RunError, match=r"events.out.tfevents.2 is not a TensorBoard event file"):
        read_history(path)


def test_kohyas_tags_prefer_the_step_loss_to_its_average(tmp_path: Path) -> None:
    scalars = []
    for s in range(1, 6):
        scalars += [("loss/average", s, 0.5), ("loss/current", s, 0.1 * s), ("lr/unet", s, 1e-4)]
    history = read_history(event_file(tmp_path / "events.out.tfevents.3", scalars))
    assert history.loss == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert history.lr == pytest.approx([1e-4] * 5)
    only_average = event_file(tmp_path / "events.out.tfevents.4", [("loss/average", s, 0.5) for s in range(3)])
    assert read_history(only_average).averaged


def test_a_resumed_run_reads_all_files_of_its_folder_and_the_newer_value_wins(tmp_path: Path) -> None:
    event_file(tmp_path / "events.out.tfevents.100", [("loss", s, 1.0) for s in range(5)])
    event_file(tmp_path / "events.out.tfevents.200", [("loss", s, 2.0) for s in range(3, 8)])
    history = read_history(tmp_path)
    assert history.step.tolist() == list(range(8))
    assert history.loss.tolist() == [1, 1, 1, 2, 2, 2, 2, 2]


def test_an_event_file_without_a_loss_says_which_tags_it_has(tmp_path: Path) -> None:
    path = event_file(tmp_path / "events.out.tfevents.5", [("lr/unet", 1, 0.1)])
    with pytest.raises(RunError, match=r"tags: lr/unet"):
        read_history(path)


def test_our_csv_keeps_validation_apart_and_nan_apart_from_empty(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("step,epoch,lr,loss,val_loss\n0,0,,,0.12\n1,1,0.001,0.2,\n2,1,0.001,nan,\n3,1,0.001,0.1,0.11\n")
    history = read_history(tmp_path)
    assert history.step.tolist() == [1, 2, 3]
    assert np.isnan(history.loss[1]) and history.loss[2] == 0.1
    assert history.val_step.tolist() == [0, 3] and history.val_loss.tolist() == [0.12, 0.11]


def test_the_loss_over_the_base_models_own_is_taken_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("step,loss,val_loss,val_se,loss_debiased\n0,,0.5,0.01,\n1,0.3,,,0.9\n2,0.1,0.4,0.02,0.8\n")
    history = read_history(path)
    assert history.loss.tolist() == [0.9, 0.8]
    assert history.val_error.tolist() == [0.01, 0.02]
    assert "loss_debiased" in history.source


def refused_in_one_line(path: Path, text: str, words: str) -> None:
    path.write_text(text)
    with pytest.raises(RunError, match=words) as caught:
        read_history(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step,loss\n1,abc\n", "line 2"),
        ("step,loss\n,0.1\n", "line 2: no step"),
        ("step,loss\n", "step and loss"),
        ("hello\n", "neither a history.csv"),
        ("", "neither a history.csv"),
    ],
)
def test_a_broken_table_names_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    refused_in_one_line(tmp_path / "history.csv", text, words)


def test_json_lines_keep_nan_skip_null_and_count_epochs_where_nothing_else_counts(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text('\n{"epoch": 1, "loss": 0.2, "val_loss": null}\n{"epoch": 2, "loss": NaN, "val_loss": 0.3}\n')
    history = read_history(path)
    assert history.step.tolist() == [1, 2] and history.loss[0] == 0.2 and np.isnan(history.loss[1])
    assert history.val_step.tolist() == [2] and history.unit == "epoch"


def test_json_lines_count_steps_where_both_are_given(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"epoch": 1, "step": {s}, "loss": 0.2}}\n' for s in (10, 20)))
    history = read_history(path)
    assert history.step.tolist() == [10, 20] and history.unit == "step"


def test_a_line_of_json_cut_off_by_a_killed_training_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 0.2}\n{"step": 2, "loss": 0.1}\n{"step": 3, "lo')
    assert read_history(path).step.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"step": 1, "loss": 0.2}\n{"step": 2, "lo\n{"step": 3, "loss": 0.1}\n', "line 2: no JSON object"),
        ('{"step": 1, "loss": 0.2}\n{"loss": 0.1}\n', "line 2: no number under step"),
        ('{"step": 1, "loss": 0.2}\n{"step": true, "loss": 0.1}\n', "line 2: no number under step"),
        ('{"loss": 0.1}\n', "line 1: no step"),
        ("hello\n", "line 1: no step"),
        ("", "line 1: no step"),
        ('{"step": 1, "lr": 0.2}\n', "tags: lr"),
    ],
)
def test_broken_json_lines_name_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    refused_in_one_line(tmp_path / "log.jsonl", text, words)


def test_a_console_log_that_begins_with_json_is_still_a_console_log(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text('{"rank": 16}\n' + "".join(f"steps: 1%| | {s}/9 [0<1, avr_loss=0.{s}]\r" for s in range(1, 9)))
    assert len(read_history(path).step) == 8


def test_kohyas_progress_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    lines = [
        f"steps:  {s}%|##   | {s}/100 [00:{s:02d}<01:00,  1.50it/s, avr_loss={0.2 - s / 1000:.4f}]"
        for s in range(1, 40)
    ]
    path.write_text("epoch 1/4\r" + "\r".join(lines) + "\nsaving checkpoint\n")
    history = read_history(path)
    assert history.averaged and len(history.step) == 39
    assert history.loss[0] == pytest.approx(0.199) and history.step[-1] == 39


def test_missing_and_empty_places_say_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="missing"):
        read_history(tmp_path / "nothing")
    with pytest.raises(RunError, match="no TensorBoard event file"):
        read_history(tmp_path)


def kohya_log(path: Path, train: np.ndarray, val: np.ndarray, every: int, epoch: int) -> Path:
    """The scalars that kohya's ``train_network.py`` writes for a training with validation, by its own tags."""
    scalars = []
    for at, loss in enumerate(train, 1):
        mean = float(np.mean(train[max(0, at - epoch) : at]))
        scalars += [("loss/current", at, float(loss)), ("loss/average", at, mean)]
        scalars += [("lr/textencoder", at, 0.0), ("lr/unet", at, 1e-4)]
        if at % every == 0:
            value = float(val[at // every - 1])
            scalars += [
                ("loss/validation/step_average", at, value),
                ("loss/validation/step_divergence", at, value - mean),
            ]
        if at % epoch == 0:
            last = float(val[min(at // every, len(val)) - 1])
            scalars += [
                ("loss/validation/epoch_average", at, last),
                ("loss/validation/epoch_divergence", at, last - mean),
            ]
            scalars += [("loss/epoch_average", at, mean)]
    return event_file(path, scalars)


def test_kohyas_logs_are_diagnosed(tmp_path: Path) -> None:
    """A training that converges and one that overfits, told apart by the validation that kohya writes."""
    rng = np.random.default_rng(0)
    steps, every, epoch = 1200, 40, 200
    falling = 0.12 * (0.5 + 0.5 * np.exp(-np.arange(steps) / 80)) * rng.lognormal(0, 0.3, steps)
    at = np.arange(every, steps + 1, every)
    level = 0.1 * (0.6 + 0.4 * np.exp(-at / 120))
    rising = level * (1 + 0.5 * np.clip((at - 500) / 700, 0, None))
    words = {}
    for name, val in (("fine", level), ("overfit", rising)):
        path = tmp_path / name / "network_train" / "events.out.tfevents.1"
        path.parent.mkdir(parents=True)
        history = read_history(kohya_log(path, falling, val, every, epoch).parents[1])
        assert history.source == "TensorBoard loss/current, loss/validation/step_average"
        assert history.val_step.tolist() == at.tolist() and not history.averaged
        assert history.lr[0] == pytest.approx(1e-4)
        words[name] = diagnose(history.step, history.loss, history.val_loss, val_step=history.val_step).state
    assert words == {"fine": "converged", "overfit": "overfit"}


def test_kohyas_validation_by_epoch_is_read_where_there_is_no_other(tmp_path: Path) -> None:
    scalars = [("loss/current", s, 0.1) for s in range(1, 21)]
    scalars += [("loss/validation/epoch_average", s, 0.2) for s in (10, 20)]
    history = read_history(event_file(tmp_path / "events.out.tfevents.6", scalars))
    assert history.val_step.tolist() == [10, 20]
