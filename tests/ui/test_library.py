"""What is found on disk, and the card that a weight is written to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.errors import ConfigError, LoraFileError, RunError
from lora_eval.service import library


def touch(path: Path, data: bytes = b"", at: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if at is not None:
        os.utime(path, (at, at))
    return path


def test_checkpoints_come_by_step_and_the_finished_lora_last(tmp_path: Path) -> None:
    for name in ("fox.safetensors", "fox-001000.safetensors", "fox-000200.safetensors", "notes.txt"):
        touch(tmp_path / name)
    names = [path.stem for path in library.checkpoints(tmp_path)]
    assert names == ["fox-000200", "fox-001000", "fox"]


def test_loras_of_the_folder_and_of_runs_each_once(tmp_path: Path) -> None:
    loras, outputs = tmp_path / "Lora", tmp_path / "lora-eval"
    touch(loras / "people" / "ann.safetensors")
    touch(loras / "fox.safetensors")
    touch(loras / ".hidden.safetensors")
    touch(loras / "readme.txt")
    touch(outputs / "fox" / "history.csv")
    touch(outputs / "fox" / "fox.safetensors")
    touch(outputs / "fox" / "fox-000100.safetensors")
    touch(outputs / "not a run" / "x.safetensors")
    assert list(library.loras(loras, outputs)) == ["fox", "people/ann", "fox / fox-000100"]


def test_runs_are_found_in_both_places_the_latest_first(tmp_path: Path) -> None:
    touch(tmp_path / "lora-eval" / "old" / "history.csv", at=1000)
    touch(tmp_path / "new" / "history.csv", at=2000)
    touch(tmp_path / "scored" / "plan.json", at=1500)
    assert [path.name for path in library.training_runs(tmp_path)] == ["new", "old"]
    touch(tmp_path / "lora-eval" / "measured" / "table.json", at=1600)
    assert [path.name for path in library.scored_runs(tmp_path)] == ["measured", "scored"]


def test_test_pictures_by_step_then_prompt(tmp_path: Path) -> None:
    for name in ("fox-000200-00.png", "fox-000010-01.png", "fox-000010-00.png", "other.png"):
        touch(tmp_path / "samples" / name)
    assert [(one.step, one.number) for one in library.samples(tmp_path)] == [(10, 0), (10, 1), (200, 0)]


def test_speed_is_that_of_drawing_without_the_pauses(tmp_path: Path) -> None:
    """Batches of two, 4 s each, with a night between: 2 s a picture."""
    run = tmp_path / "run"
    touch(run / "plan.json", json.dumps({"sampling": {"steps": 20, "width": 512, "height": 512}}).encode())
    start = 1_000_000.0
    for number in range(40):
        batch = number // 2
        touch(run / "images" / f"{number:02d}.png", at=start + 4.0 * batch + (30_000 if batch >= 10 else 0))
    seconds = library.seconds_per_image(tmp_path)
    assert seconds == pytest.approx(2.0, rel=0.06)
    assert library.seconds_per_image(tmp_path, steps=40, pixels=256 * 256) == pytest.approx(seconds * 2 / 4)


@pytest.mark.parametrize("plan", ["{", "[]"])
def test_a_broken_run_tells_no_speed_and_hides_none(tmp_path: Path, plan: str) -> None:
    for name, words, at in (("good", '{"sampling": {}}', 10.0), ("broken", plan, 99.0)):
        for number in range(10):
            touch(tmp_path / name / "images" / f"{number}.png", at=1_000_000.0 + 3.0 * number)
        (tmp_path / name / "plan.json").write_text(words)
        os.utime(tmp_path / name / "plan.json", (at, at))
    assert library.seconds_per_image(tmp_path) == pytest.approx(3.0)


def test_speed_is_unknown_without_a_run(tmp_path: Path) -> None:
    assert library.seconds_per_image(tmp_path) is None


values = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20))


@given(card=st.dictionaries(st.text(max_size=12), values, max_size=6), weight=st.floats(0, 2))
def test_a_card_keeps_every_other_key(tmp_path_factory: pytest.TempPathFactory, card: dict, weight: float) -> None:
    lora = tmp_path_factory.mktemp("lora") / "fox.safetensors"
    lora.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    path = library.write_card(lora, weight)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written.pop("preferred weight") == round(weight, 4)
    card.pop("preferred weight", None)
    assert written == card


def test_the_trigger_fills_an_empty_activation_text_alone(tmp_path: Path) -> None:
    lora = tmp_path / "fox.safetensors"
    assert json.loads(library.write_card(lora, 0.7, "sks fox").read_text())["activation text"] == "sks fox"
    assert json.loads(library.write_card(lora, 0.8, "other").read_text())["activation text"] == "sks fox"


@pytest.mark.parametrize("weight", [-0.1, 2.5, float("nan")])
def test_a_weight_that_a_card_cannot_hold_is_refused(tmp_path: Path, weight: float) -> None:
    with pytest.raises(ConfigError, match="0 to 2"):
        library.write_card(tmp_path / "fox.safetensors", weight)
    assert not (tmp_path / "fox.json").exists()


def test_a_broken_card_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "fox.json").write_text("{not json")
    with pytest.raises(RunError, match=r"fox\.json"):
        library.write_card(tmp_path / "fox.safetensors", 0.7)
    assert (tmp_path / "fox.json").read_text() == "{not json"


def test_publishing_copies_once_and_never_over_another_lora(tmp_path: Path) -> None:
    folder = tmp_path / "Lora"
    checkpoint = touch(tmp_path / "run" / "fox-000100.safetensors", b"weights")
    there = library.publish(checkpoint, folder)
    assert there == folder / "fox-000100.safetensors" and there.read_bytes() == b"weights"
    assert library.publish(checkpoint, folder) == there
    assert library.publish(there, folder) == there
    there.write_bytes(b"someone else's")
    with pytest.raises(LoraFileError, match="another LoRA"):
        library.publish(checkpoint, folder)
    assert there.read_bytes() == b"someone else's"


# -- checkpoints by their numbers --------------------------------------------------------------------


def test_checkpoints_are_picked_by_the_number_in_their_name_or_the_steps_of_their_metadata(tmp_path: Path) -> None:
    from lora_eval.errors import ConfigError
    from tests.fakes_scorecard import make_lora

    first, second = (tmp_path / f"fox-{number:06d}.safetensors" for number in (100, 200))
    last = make_lora(tmp_path / "fox-v2.safetensors", metadata={"ss_steps": "300"})
    unknown = make_lora(tmp_path / "hen.safetensors")
    assert [library.checkpoint_number(path) for path in (first, second, last, unknown)] == [100, 200, 300, None]
    loras = [last, unknown, second, first]
    assert library.pick_checkpoints(loras, [300, 100, 300]) == [last, first]
    with pytest.raises(ConfigError, match="no chosen LoRA is checkpoint 150; there are 100, 200, 300"):
        library.pick_checkpoints(loras, [150])
