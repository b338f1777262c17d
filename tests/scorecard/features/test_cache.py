"""The cache of features: nothing twice, and the same bits whatever was there already."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lora_eval.errors import Interrupted
from lora_eval.host.protocol import Job
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.features import cache as features
from lora_eval.scorecard.features.cache import FeatureCache, Source
from tests.fakes_scorecard import FakeEncoder, random_of


class CompanyEncoder(FakeEncoder):
    """Features that depend on the whole batch in the last bits, as real ones do."""

    def encode(self, batch: np.ndarray) -> np.ndarray:
        return super().encode(batch) * np.float32(1 + 1e-6 * len(batch))


def picture(seed: int) -> Image.Image:
    return Image.fromarray(random_of(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def sources(count: int) -> list[Source]:
    return [Source(f"key{seed:04d}", lambda seed=seed: picture(seed)) for seed in range(count)]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_rows_follow_the_sources_and_doubles_are_measured_once(folder):
    encoder = FakeEncoder()
    asked = [sources(3)[i] for i in (2, 0, 2, 1)]
    found = FeatureCache(folder, "fake", lambda: encoder).pictures(asked)
    assert encoder.images_seen == 3
    assert found.features.shape == (4, 16) and (found.features[0] == found.features[2]).all()
    expected = encoder.embed_images([picture(0)])
    np.testing.assert_allclose(found.features[1], expected[0], atol=1e-6)
    assert (found.styles.shape, found.distortions.shape, found.thumbs.shape) == ((4, 12), (4, 6), (4, 32, 32))


def test_a_second_cache_on_the_folder_needs_no_encoder(folder):
    first = FeatureCache(folder, "fake", FakeEncoder)
    before, texts = first.pictures(sources(5)), first.texts(["a red star", "b"])

    def none():
        raise AssertionError("the encoder was loaded")

    second = FeatureCache(folder, "fake", none)
    again = second.pictures(sources(5))
    assert (again.features == before.features).all() and (again.thumbs == before.thumbs).all()
    assert all((second.texts(["b", "a red star"])[key] == texts[key]).all() for key in texts)


def test_another_encoder_has_a_table_of_its_own_and_shares_the_pixels(folder):
    one = FeatureCache(folder, "one", lambda: FakeEncoder(identity="one")).pictures(sources(2))
    two = FeatureCache(folder, "two", lambda: FakeEncoder(identity="two")).pictures(sources(2))
    assert not np.allclose(one.features, two.features) and (one.styles == two.styles).all()
    assert FeatureCache(folder, "one", FakeEncoder).pictures(sources(2)).features.tobytes() == one.features.tobytes()


def test_after_an_interrupt_the_features_have_the_bits_of_an_undisturbed_run(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 4)
    whole = FeatureCache(RunFolder(tmp_path / "a"), "c", CompanyEncoder).pictures(sources(10))

    class Stopping(Job):
        def say(self, text: str) -> None:
            if text.startswith("measuring pictures: 8"):
                self.interrupt()
            super().say(text)

        def check(self) -> None:
            super().check()

    folder = RunFolder(tmp_path / "b")
    job = Stopping("x", 10)
    job._stop = False
    broken = [*sources(10)]
    broken[9] = Source("key0009", lambda: (_ for _ in ()).throw(Interrupted("stopped")))
    with pytest.raises(Interrupted):
        FeatureCache(folder, "c", CompanyEncoder).pictures(broken)
    kept = len(folder.read_features()["image|c|key"])
    assert 0 < kept < 10
    again = FeatureCache(folder, "c", CompanyEncoder).pictures(sources(10))
    assert again.features.tobytes() == whole.features.tobytes()


def test_an_interrupt_is_heard_between_chunks(folder, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 2)
    job = Job("x", 4)
    job.interrupt()
    encoder = FakeEncoder()
    with pytest.raises(Interrupted):
        FeatureCache(folder, "fake", lambda: encoder).pictures(sources(4), job)
    assert encoder.images_seen == 0


def test_a_damaged_cache_is_computed_again(folder):
    first = FeatureCache(folder, "fake", FakeEncoder).pictures(sources(3))
    folder.features_file.write_bytes(folder.features_file.read_bytes()[:100])
    assert FeatureCache(folder, "fake", FakeEncoder).pictures(sources(3)).features.tobytes() == first.features.tobytes()
