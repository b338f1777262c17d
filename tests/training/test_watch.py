"""Test pictures measured: known answers on pictures whose features are their colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_eval.training.config import make_config
from lora_eval.training.curve import Samples
from lora_eval.training.loop import train
from lora_eval.training.samples import class_prompts, sample_prompts
from lora_eval.training.watch import SampleWatch, read_samples
from tests.fakes import FakeHost, write_dataset

RED, GREEN, BLUE = np.eye(3, dtype=np.float32)


class Colours:
    """A picture's feature is its mean colour, a text's the colour it names; unit length."""

    def embed_images(self, images: Iterable[Image.Image]) -> np.ndarray:
        found = np.stack([np.asarray(image.convert("RGB"), np.float32).mean((0, 1)) + 1e-3 for image in images])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        names = {"red": RED, "green": GREEN, "blue": BLUE}
        return np.stack([next((names[word] for word in text.split() if word in names), RED) for text in texts])


def flat(*colour: float) -> Image.Image:
    return Image.new("RGB", (8, 8), tuple(int(255 * c) for c in colour))


def watch(path: Path, **options: int) -> SampleWatch:
    # references: 45 degrees apart from green, so alike to each other by cos 0 .. 1
    references = [flat(0, 1, 0), flat(0, 1, 1)]
    return SampleWatch(path / "samples.csv", Colours(), references, ["a red thing"], **options)


def test_known_scores(tmp_path: Path) -> None:
    measured = watch(tmp_path)
    start = measured.measure(0, [[flat(1, 0, 0), flat(1, 0, 1)]])
    assert (start["fidelity"], start["diversity"], start["alignment"]) == (pytest.approx(0), 1, 1)
    half = 2**-0.5
    assert start["distance"] == pytest.approx(1 - half, abs=1e-2)
    assert start["clip_t"] == pytest.approx((1 + half) / 2, abs=1e-2)
    end = measured.measure(10, [[flat(0, 1, 0), flat(0, 1, 0)]])
    # cos to the references: 1 and 1/sqrt 2; among themselves 1/sqrt 2; before: 0, 0, 0 and 1/2
    before, ceiling = 0.5 / 4, half
    assert end["fidelity"] == pytest.approx(((1 + half) / 2 - before) / (ceiling - before), abs=2e-2)
    assert end["diversity"] == pytest.approx(0, abs=1e-3)
    assert end["alignment"] == pytest.approx(0, abs=1e-2)


def test_the_table_reads_back_as_the_diagnosis_takes_it(tmp_path: Path) -> None:
    measured = watch(tmp_path)
    measured.measure(0, [[flat(1, 0, 0)]])
    measured.measure(5, [[flat(1, 1, 0)]])
    found = read_samples(tmp_path / "samples.csv")
    assert isinstance(found, Samples) and list(found.step) == [0, 5]
    assert found.diversity is not None and all(np.isnan(found.diversity)), "one picture a prompt has no diversity"
    assert found.fidelity is not None and found.fidelity[1] > found.fidelity[0] == 0
    assert read_samples(tmp_path / "none.csv") is None


def test_resuming_keeps_step_0_as_the_start_and_drops_later_rows(tmp_path: Path) -> None:
    whole = watch(tmp_path)
    for step, colour in ((0, (1, 0, 0)), (5, (1, 0.5, 0)), (10, (0, 1, 0))):
        whole.measure(step, [[flat(*colour)]])
    expected = (tmp_path / "samples.csv").read_text()
    again = watch(tmp_path, resume_at=5)
    assert [row["step"] for row in again.rows] == [0, 5]
    again.measure(10, [[flat(0, 1, 0)]])
    assert (tmp_path / "samples.csv").read_text() == expected


def test_prompts_are_asked_with_the_class_word() -> None:
    config = make_config(
        {"trigger": "zorp", "class_word": "fox", "sample_prompts": ["{trigger}, at noon", "a zorp and a zorpling"]}
    )
    assert sample_prompts(config) == ["zorp, at noon", "a zorp and a zorpling"]
    assert class_prompts(config) == ["fox, at noon", "a fox and a zorpling"]


def test_a_run_with_an_encoder_measures_its_pictures_and_trains_the_same_bits(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 8)
    values = {"train_data_dir": str(data), "name": "toy", "max_steps": 6, "batch_size": 4, "sample_steps": 3}
    config = make_config({**values, "sample_prompts": ["red fox", "blue owl"], "samples_per_prompt": 2})
    plain = train(FakeHost(tmp_path / "a"), config)
    measured = train(FakeHost(tmp_path / "b"), config, encoder=Colours())
    assert plain.lora.read_bytes()[-1000:] == measured.lora.read_bytes()[-1000:]
    found = read_samples(measured.folder / "samples.csv")
    assert found is not None and list(found.step) == [0, 3, 6]
    assert found.diversity is not None and found.diversity[0] == 1
    assert not (plain.folder / "samples.csv").exists()
    assert len(list((measured.folder / "samples").iterdir())) == 3 * 4
