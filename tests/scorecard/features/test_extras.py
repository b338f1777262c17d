"""Second encoders: used where they are, named where they are not, never downloaded."""

from __future__ import annotations

import numpy as np
import pytest

from lora_eval.encoders import registry
from lora_eval.encoders.dinov2 import Dinov2
from lora_eval.encoders.insight_face import InsightFace
from lora_eval.encoders.protocol import EncoderSpec, MissingEncoder
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.features.cache import FeatureCache, Source
from lora_eval.scorecard.features.extras import measure_extras
from tests.fakes_scorecard import FakeEncoder, make_references


@pytest.fixture
def setup(tmp_path):
    from PIL import Image

    data = make_references(tmp_path / "data", 3)
    sources = [Source(f"k{n}", lambda n=n: Image.new("RGB", (64, 64), (n * 50, 9, 9))) for n in range(4)]
    return RunFolder(tmp_path / "run"), sources, sorted(data.glob("*.png"))


def offered(monkeypatch, **makers):
    """These second opinions and no others: name -> (kinds, how it is made)."""
    specs = tuple(
        EncoderSpec("", name, lambda *_, make=make: make(), name, kinds) for name, (kinds, make) in makers.items()
    )
    monkeypatch.setattr(registry, "SPECS", specs)


def missing():
    raise MissingEncoder("its package is not installed; pip install it")


def test_what_is_there_is_measured_and_what_is_not_is_named(setup, monkeypatch):
    folder, sources, references = setup
    offered(monkeypatch, dino=(("object",), lambda: FakeEncoder(identity="dino")), face=(("object",), missing))
    pictures, of_references, notes = measure_extras(folder, "object", sources, references, (64, 64))
    assert (pictures["dino"].shape, of_references["dino"].shape) == ((4, 16), (3, 16))
    assert notes == {"face": "not measured: its package is not installed; pip install it"}


def test_faces_are_looked_for_in_characters_alone(setup, monkeypatch):
    folder, sources, references = setup
    offered(monkeypatch, face=(registry.SPECS[1].kinds, missing))
    assert measure_extras(folder, "style", sources, references, (64, 64)) == ({}, {}, {})
    assert "face" in measure_extras(folder, "character", sources, references, (64, 64))[2]


def test_a_picture_without_a_face_stays_missing_through_the_cache(setup, monkeypatch):
    class Faces(FakeEncoder):
        def encode(self, batch):
            rows = super().encode(batch)
            rows[0] = np.nan
            return rows

    folder, sources, references = setup
    offered(monkeypatch, face=(("character",), lambda: Faces(identity="face")))
    for _ in range(2):
        pictures, _, _ = measure_extras(folder, "character", sources, references, (64, 64))
        assert np.isnan(pictures["face"][0]).all() and np.isfinite(pictures["face"][1:]).all()


def test_the_main_encoders_features_are_kept_beside_them(setup, monkeypatch):
    folder, sources, references = setup
    main = FeatureCache(folder, "main", lambda: FakeEncoder(identity="main"))
    before = main.pictures(sources).features
    offered(monkeypatch, dino=(("object",), lambda: FakeEncoder(identity="dino")))
    measure_extras(folder, "object", sources, references, (64, 64))

    def none():
        raise AssertionError("computed again")

    assert (FeatureCache(folder, "main", none).pictures(sources).features == before).all()


def test_without_references_there_is_nothing_to_compare_with(setup, monkeypatch):
    folder, sources, _ = setup
    offered(monkeypatch, dino=(("object",), lambda: FakeEncoder()))
    assert measure_extras(folder, "object", sources, [], (64, 64))[2] == {"dino": "not measured: no reference pictures"}


@pytest.mark.parametrize("make", [Dinov2, InsightFace])
def test_without_weights_on_the_machine_the_note_says_how_to_get_them(make, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *arguments, **settings: None)
    with pytest.raises(MissingEncoder, match=r"pip install|hf download|put them there"):
        make()
