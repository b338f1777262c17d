"""Which pictures the LoRA's own are compared with, and what is said when there are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_eval.errors import DatasetError, RunError
from lora_eval.files import file_sha256
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.features.cache import FeatureCache
from lora_eval.scorecard.features.references import find_references, fit, load_pictures
from tests.fakes_scorecard import FakeEncoder, make_lora, make_references


@pytest.fixture
def data(tmp_path):
    return make_references(tmp_path / "data", 8)


def record(folder: Path, training, held_out) -> Path:
    """A LoRA with the record of its training run beside it."""
    lora = make_lora(folder / "zorp-000100.safetensors")
    entry = lambda path: {"path": str(path), "caption": "", "sha256": file_sha256(path)}  # noqa: E731
    (folder / "references.json").write_text(
        json.dumps({"training": [entry(p) for p in training], "held_out": [entry(p) for p in held_out]})
    )
    return lora


def pictures(data: Path) -> list[Path]:
    return sorted(data.glob("*.png"))


def test_held_out_pictures_of_the_training_run_come_first(tmp_path, data):
    lora = record(tmp_path / "run", pictures(data)[:5], pictures(data)[5:])
    found = find_references(None, [lora])
    assert (found.pictures, found.held_out, found.training) == (pictures(data)[5:], True, pictures(data)[:5])
    assert found.notes == {}


def test_with_too_few_held_out_the_training_pictures_serve_and_it_is_said(tmp_path, data):
    lora = record(tmp_path / "run", pictures(data)[:7], pictures(data)[7:])
    found = find_references(None, [lora])
    assert len(found.pictures) == 8 and not found.held_out
    assert "copying" in found.notes["references"]


def test_a_named_folder_is_split_by_what_training_saw(tmp_path, data):
    lora = record(tmp_path / "run", pictures(data)[:5], [])
    found = find_references(data, [lora])
    assert found.held_out and [p.name for p in found.pictures] == ["5.png", "6.png", "7.png"]
    assert [p.name for p in found.training] == ["0.png", "1.png", "2.png", "3.png", "4.png"]


def test_a_renamed_training_picture_is_still_known_by_its_content(tmp_path, data):
    lora = record(tmp_path / "run", pictures(data)[:7], [])
    for path in pictures(data)[:7]:
        path.rename(data / f"new-{path.name}")
    (data / "metadata.csv").unlink()
    found = find_references(data, [lora])
    assert not found.held_out and len(found.pictures) == 8
    assert "saw (1 of 8" in found.notes["references"]


def test_a_folder_without_a_record_is_used_whole_and_nothing_is_claimed(tmp_path, data):
    found = find_references(data, [make_lora(tmp_path / "other.safetensors")])
    assert len(found.pictures) == len(found.training) == 8 and not found.held_out
    assert "not known" in found.notes["references"]


def test_nothing_at_all_says_what_to_name(tmp_path):
    found = find_references(None, [make_lora(tmp_path / "other.safetensors")])
    assert found.pictures == [] and "name a folder" in found.notes["references"]


def test_pictures_that_are_gone_are_said_to_be_gone(tmp_path, data):
    lora = record(tmp_path / "run", pictures(data), [])
    for path in pictures(data):
        path.unlink()
    assert "are gone" in find_references(None, [lora]).notes["references"]


def test_a_missing_folder_or_a_broken_record_is_one_line(tmp_path, data):
    with pytest.raises(DatasetError, match="does not exist"):
        find_references(tmp_path / "none", [])
    lora = make_lora(tmp_path / "run" / "zorp.safetensors")
    (tmp_path / "run" / "references.json").write_text("[]")
    with pytest.raises(RunError, match=r"references\.json"):
        find_references(None, [lora])


def test_references_are_measured_in_the_size_of_the_drawn_pictures(tmp_path):
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 200, 3), dtype=np.uint8))
    wide.save(tmp_path / "wide.png")
    made = fit(tmp_path / "wide.png", (64, 64))
    middle = wide.resize((256, 64), Image.Resampling.BICUBIC).crop((96, 0, 160, 64))
    assert made.size == (64, 64) and (np.asarray(made) == np.asarray(middle)).all()


def test_loaded_pictures_carry_features_styles_and_names(tmp_path, data):
    cache = FeatureCache(RunFolder(tmp_path / "run"), "fake", FakeEncoder)
    (data / "9.png").write_bytes(b"not a picture")
    notes: dict[str, str] = {}
    shown: dict[str, Path] = {}
    loaded = load_pictures(pictures(data), cache, (64, 64), True, notes, shown)
    assert loaded is not None and len(loaded) == 8 and loaded.held_out
    assert loaded.features.shape == (8, 16) and loaded.styles.shape == (8, 12) and loaded.pixels.shape == (8, 6)
    assert shown["0.png"] == data / "0.png"
    assert notes["broken references"].startswith("1 left out: ") and "9.png" in notes["broken references"]
    assert load_pictures([], cache, (64, 64), True, notes) is None


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path, data):
    other = make_references(tmp_path / "other", 1)
    cache = FeatureCache(RunFolder(tmp_path / "run"), "fake", FakeEncoder)
    loaded = load_pictures([data / "0.png", other / "0.png"], cache, (64, 64), False, {})
    assert loaded.names == ["0.png", "0.png (2)"]
