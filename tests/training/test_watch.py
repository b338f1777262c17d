"""Test pictures measured: known answers on pictures whose features are their colours."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_eval.encoders.protocol import Encoder
from lora_eval.errors import ConfigError
from lora_eval.training.config import make_config
from lora_eval.training.curve import Samples
from lora_eval.training.loop import TrainResult, train
from lora_eval.training.samples import class_prompts, sample_prompts
from lora_eval.training.watch import (
    SampleWatch,
    decline,
    load_watcher,
    read_samples,
    samples_beside,
)
from tests.fakes import FakeHost, write_dataset
from tests.fakes_scorecard import FakeImagesOnly

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


# -- a fall that buys nothing --------------------------------------------------------------------------


def scores(*rows: tuple[float, float, float]) -> Samples:
    fidelity, diversity, alignment = (list(column) for column in zip(*rows, strict=True))
    return Samples([10 * k for k in range(len(rows))], fidelity, diversity, alignment)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # learning costs diversity and alignment, and pays in fidelity: nothing to say
        ([(0.0, 1.0, 1.0), (0.5, 0.7, 0.8), (0.8, 0.5, 0.6)], None),
        # as faithful as before, deaf since
        ([(0.0, 1.0, 1.0), (0.8, 0.7, 0.9), (0.8, 0.7, 0.7)], (10, 20, 1, ("alignment 0.90 -> 0.70",))),
        # the fidelity itself falls, twice in a row
        ([(0.0, 1.0, 1.0), (0.8, 0.7, 0.9), (0.6, 0.7, 0.9), (0.5, 0.7, 0.9)],
         (10, 20, 2, ("fidelity 0.80 -> 0.50",))),
        # a bad step that was made good again
        ([(0.0, 1.0, 1.0), (0.8, 0.7, 0.9), (0.6, 0.7, 0.9), (0.85, 0.7, 0.9)], None),
        # within the tolerance
        ([(0.0, 1.0, 1.0), (0.8, 0.7, 0.9), (0.75, 0.65, 0.85)], None),
        # worse than no LoRA at all
        ([(0.0, 1.0, 1.0), (-0.3, 1.0, 0.9)], (0, 10, 1, ("fidelity 0.00 -> -0.30",))),
    ],
)  # fmt: skip
def test_a_decline_is_a_fall_that_buys_nothing(rows: list[tuple[float, float, float]], expected: Any) -> None:
    found = decline(scores(*rows))
    assert (None if found is None else (found.best, found.since, found.count, found.lower)) == expected


def test_what_was_not_measured_is_no_decline() -> None:
    nan = float("nan")
    assert decline(scores((nan, 1.0, 1.0), (nan, 0.2, 0.2))) is None, "without fidelity nothing can be said"
    found = decline(scores((0.0, nan, 1.0), (0.8, nan, 0.9), (0.8, nan, 0.5)))
    assert found is not None and found.lower == ("alignment 0.90 -> 0.50",), "one picture a prompt has no diversity"
    assert decline(Samples([0, 10])) is None


class Planted(Colours):
    """Features by the step that is being measured: the LoRA's pictures get redder, then turn away."""

    def __init__(self, colours: Sequence[np.ndarray]) -> None:
        self.colours, self.calls = list(colours), -1

    def embed_images(self, images: Iterable[Image.Image]) -> np.ndarray:
        count = len(list(images))
        self.calls += 1
        if self.calls == 0:
            # the references: alike, and unlike the pictures before training
            return np.stack([RED] * count)
        # evaluation that draws from every global generator
        torch.rand(3), np.random.rand(3), random.random()
        return np.stack([self.colours[min((self.calls - 1), len(self.colours) - 1)]] * count)


def toward(share: float) -> np.ndarray:
    mixed = share * RED + (1 - share) * BLUE
    return mixed / np.linalg.norm(mixed)


WORSENING = [toward(share) for share in (0.0, 0.5, 0.9, 0.6, 0.4, 0.2, 0.1)]


def preview_run(folder: Path, encoder: Encoder | None, **values: Any) -> TrainResult:
    data = folder / "data"
    if not data.exists():
        write_dataset(data, 8)
    base = {
        "train_data_dir": str(data), "name": "toy", "epochs": 100, "max_steps": 12, "batch_size": 4, "sample_steps": 2,
        "save_steps": 2, "sample_prompts": ["red fox"], "measure_samples": True, "save_dtype": "fp32",
        "caption_dropout": 0.3, "dropout": 0.2,
    }  # fmt: skip
    return train(FakeHost(folder / "host"), make_config({**base, **values}), encoder=encoder)


def test_worsening_previews_stop_the_run_and_every_checkpoint_is_kept(tmp_path: Path) -> None:
    result = preview_run(tmp_path, Planted(WORSENING), sample_early_stop=2)
    # measured at 0, 2, 4 (best), 6, 8: the second in a row that step 4 beats
    assert (result.stopped, result.steps, result.total) == ("early", 8, 12)
    assert result.message.startswith("stopped at step 8: test pictures since step 6 are worse than at step 4: fidelity")
    assert [step for step, _ in result.checkpoints] == [2, 4, 6, 8, 8], "the finished LoRA is the last"
    assert all(path.is_file() for _, path in result.checkpoints)
    assert result.notes[-1].endswith("try the checkpoint of step 4")


def test_without_patience_the_run_goes_on_and_the_advice_stands_at_the_end(tmp_path: Path) -> None:
    result = preview_run(tmp_path, Planted(WORSENING))
    assert (result.stopped, result.steps) == ("finished", 12)
    assert any("test pictures since step 6 are worse than at step 4" in note for note in result.notes)
    better = preview_run(tmp_path / "b", Planted([toward(k / 6) for k in range(7)]), sample_early_stop=1)
    assert better.stopped == "finished" and not any("worse" in note for note in better.notes)


def test_measuring_moves_neither_weights_nor_generators_nor_mode(tmp_path: Path) -> None:
    """Against a run that draws no pictures at all, with an encoder that draws from the global generators."""
    modes: list[tuple[bool, bool]] = []

    class Watched(Planted):
        def embed_images(self, images: Iterable[Image.Image]) -> np.ndarray:
            modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return super().embed_images(images)

    plain = preview_run(tmp_path / "a", None, sample_prompts=[], measure_samples=False)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    measured = preview_run(tmp_path / "b", Watched(WORSENING))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    for (_, one), (_, other) in zip(plain.checkpoints, measured.checkpoints, strict=True):
        mine, theirs = load_file(one), load_file(other)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert plain.history.read_bytes() == measured.history.read_bytes()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert len(modes) == 1 + 7 and not any(grad for grad, _ in modes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sample_prompts": [], "measure_samples": True}, "measure_samples needs test pictures"),
        ({"measure_samples": False, "sample_early_stop": 2}, "set measure_samples: true"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        preview_run(tmp_path, None, **values)


def test_a_caller_without_an_encoder_is_told(tmp_path: Path) -> None:
    result = preview_run(tmp_path, None)
    assert "test pictures are not measured: the caller gave no encoder" in result.notes
    assert not (result.folder / "samples.csv").exists()


def test_the_encoder_is_loaded_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    registry = pytest.importorskip("lora_eval.encoders.registry")
    monkeypatch.setattr(registry, "load_encoder", lambda name, say=None: asked.append(name))
    host = FakeHost(tmp_path)
    assert load_watcher(host, make_config({})) is None and asked == []
    load_watcher(host, make_config({"measure_samples": True}), "some/encoder")
    load_watcher(host, make_config({"measure_samples": True}))
    assert asked == ["some/encoder", registry.DEFAULT]


def test_the_measures_beside_a_history_go_into_its_diagnosis(tmp_path: Path) -> None:
    watch(tmp_path).measure(0, [[flat(1, 0, 0)]])
    for path in (tmp_path, tmp_path / "history.csv"):
        found = samples_beside(path)
        assert found is not None and list(found.step) == [0]
    assert samples_beside(tmp_path / "other" / "history.csv") is None


def test_without_texts_alignment_is_empty_and_said(tmp_path: Path) -> None:
    measured = SampleWatch(tmp_path / "samples.csv", FakeImagesOnly(), [flat(0, 1, 0), flat(0, 1, 1)], ["a red thing"])
    row = measured.measure(0, [[flat(1, 0, 0), flat(1, 0, 1)]])
    measured.measure(1, [[flat(0, 1, 0), flat(0, 1, 1)]])
    assert row["clip_t"] is None and row["alignment"] is None and row["clip_i"] is not None
    assert measured.missing.startswith("alignment of test pictures is not measured: the encoder fake-images knows no")
    assert measured.decline() is None and read_samples(tmp_path / "samples.csv") is not None
    assert measured.missing in preview_run(tmp_path, FakeImagesOnly()).notes
