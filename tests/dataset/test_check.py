"""Each finding on its own planted fault, and none on a clean set."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lora_eval.dataset.check import Finding, check, term_frequency
from lora_eval.dataset.folder import Item, scan
from tests.fakes import caption, drawing, write_dataset

SIZE = (96, 96)
TRIGGER = "zorp"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("clean"), 50, SIZE, TRIGGER)


@pytest.fixture
def folder(clean: Path, tmp_path: Path) -> Path:
    shutil.copytree(clean, tmp_path / "data")
    return tmp_path / "data"


def findings(folder: Path, **options: object) -> list[Finding]:
    settings: dict[str, object] = {"trigger": TRIGGER, "resolution": 64, **options}
    return check(scan(folder), **settings)  # type: ignore[arg-type]


def recaption(folder: Path, change: Callable[[int, str], str]) -> None:
    lines = ["file_name,prompt"]
    lines += [f'{i:02d}.png,"{change(i, caption(i, TRIGGER))}"' for i in range(50)]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def repaint(number: int, change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    return lambda folder: change(drawing(number, SIZE)).save(folder / f"{number:02d}.png")


def add(folder: Path, name: str, picture: Image.Image) -> None:
    picture.save(folder / name)
    with open(folder / "metadata.csv", "a") as file:
        file.write(f'{name},"{caption(77, TRIGGER)}"\n')


def rows(folder: Path, keep: int) -> None:
    lines = (folder / "metadata.csv").read_text().splitlines()[: keep + 1]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    for number in range(keep, 50):
        (folder / f"{number:02d}.png").unlink()


FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, str, str]]] = {
    "few": (lambda f: rows(f, 30), ("warning", "few pictures", "")),
    "broken": (lambda f: (f / "07.png").write_bytes(b"\x89PNG nothing"), ("error", "broken picture", "07.png")),
    "zero bytes": (lambda f: (f / "07.png").write_bytes(b""), ("error", "broken picture", "07.png")),
    "blurred": (repaint(7, lambda i: i.filter(ImageFilter.GaussianBlur(6))), ("warning", "blurred", "07.png")),
    "dark": (repaint(7, lambda i: i.point(lambda v: v // 8)), ("warning", "dark", "07.png")),
    "overexposed": (repaint(7, lambda i: i.point(lambda v: 225 + v // 9)), ("warning", "overexposed", "07.png")),
    "blank": (repaint(7, lambda i: Image.new("RGB", SIZE, (120, 130, 140))), ("error", "blank", "07.png")),
    "small": (repaint(7, lambda i: i.resize((40, 40))), ("warning", "enlarged", "07.png")),
    "panorama": (lambda f: drawing(7, (400, 80)).save(f / "07.png"), ("warning", "cropped", "07.png")),
    "same file": (lambda f: add(f, "twin.png", drawing(7, SIZE)), ("warning", "duplicate", "twin.png")),
    "nearly the same": (
        lambda f: add(f, "twin.jpg", drawing(7, SIZE).resize((110, 110))),
        ("warning", "near duplicate", "twin.jpg"),
    ),
    "missing file": (lambda f: (f / "07.png").unlink(), ("error", "missing file", "07.png")),
    "unlisted": (lambda f: drawing(99, SIZE).save(f / "extra.png"), ("warning", "unlisted picture", "extra.png")),
    "no caption": (lambda f: recaption(f, lambda i, c: "" if i == 7 else c), ("warning", "no caption", "07.png")),
    "no captions": (lambda f: recaption(f, lambda i, c: ""), ("error", "no captions", "")),
    "long": (
        lambda f: recaption(f, lambda i, c: c + " very" * 80 if i == 7 else c),
        ("warning", "long caption", "07.png"),
    ),
    "trigger missing once": (
        lambda f: recaption(f, lambda i, c: c.replace(TRIGGER, "zrop") if i == 7 else c),
        ("warning", "trigger missing", "07.png"),
    ),
    "trigger nowhere": (lambda f: recaption(f, lambda i, c: c.replace(TRIGGER, "")), ("error", "no trigger", "")),
    "same caption": (lambda f: recaption(f, lambda i, c: "zorp standing there"), ("warning", "same caption", "")),
    "fused": (lambda f: recaption(f, lambda i, c: c + " umbrella" if i % 10 else c), ("warning", "fused term", "")),
    "tied": (lambda f: recaption(f, lambda i, c: c + " umbrella" if i % 3 else c), ("warning", "fused term", "")),
    "often beside": (
        lambda f: recaption(f, lambda i, c: c + " umbrella" if i % 5 < 2 else c),
        ("info", "fused term", ""),
    ),
}  # fmt: skip
# a fault that cannot be planted alone: these come with it
ALONG = {
    "missing file": {"few pictures"},
    "broken": {"few pictures"},
    "zero bytes": {"few pictures"},
    "same caption": {"fused term"},
}


def test_a_clean_set_has_no_findings(clean: Path) -> None:
    assert findings(clean) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(folder: Path, fault: str) -> None:
    plant, expected = FAULTS[fault]
    plant(folder)
    found = findings(folder)
    assert expected in [(one.severity, one.code, one.picture) for one in found]
    assert {one.code for one in found} <= {expected[1]} | ALONG.get(fault, set())
    for one in found:
        assert one.mend and "\n" not in one.line()


def test_more_than_two_hundred_pictures_are_mentioned(folder: Path) -> None:
    dataset = scan(folder)
    dataset.items *= 5
    codes = {one.code for one in check(dataset, TRIGGER, 64)}
    assert "many pictures" in codes and "few pictures" not in codes


def test_ignored_subfolders_are_named(folder: Path) -> None:
    (folder / "metadata.csv").unlink()
    (folder / "10_zorp").mkdir()
    for path in sorted(folder.glob("*.png")):
        path.rename(folder / "10_zorp" / path.name)
    (folder / "old").mkdir()
    drawing(99).save(folder / "old" / "a.png")
    assert ("warning", "ignored folder", "old") in [(f.severity, f.code, f.picture) for f in findings(folder)]


def test_held_out_pictures_that_are_in_training_are_leaks(folder: Path) -> None:
    dataset = scan(folder)
    drawing(7, SIZE).resize((120, 120)).save(folder / "held.png")
    drawing(98, SIZE).save(folder / "fresh.png")
    held = [Item(folder / "held.png", "zorp"), Item(folder / "fresh.png", "zorp")]
    leaks = [one for one in check(dataset, TRIGGER, 64, held_out=held) if one.code == "leak"]
    assert [(one.severity, one.picture) for one in leaks] == [("error", "held.png")]
    assert "07.png" in leaks[0].message


def test_the_model_s_tokenizer_is_asked_where_there_is_one(folder: Path) -> None:
    found = findings(folder, count_tokens=lambda text: 76 if text == caption(3, TRIGGER) else 75)
    assert [(one.code, one.picture) for one in found] == [("long caption", "03.png")]
    assert "about" not in found[0].message


def test_class_word_may_stand_in_every_caption(folder: Path) -> None:
    recaption(folder, lambda i, c: c + " umbrella")
    assert [one.code for one in findings(folder)] == ["fused term"]
    assert findings(folder, class_word="umbrella") == []


def test_term_frequency_counts_captions_not_occurrences() -> None:
    tags = ["fox, fox, red hood, snow", "owl, red hood, night", "red hood, fox, dawn", "boat, sea, RED HOOD"]
    assert term_frequency(tags)["red hood"] == 1.0
    assert term_frequency(tags)["fox"] == 0.5
    words = ["a fox in the snow", "the fox and the owl", "a boat at sea", ""]
    assert term_frequency(words)["fox"] == pytest.approx(2 / 3)
    assert "the" not in term_frequency(words)


# -- variety, by an encoder ------------------------------------------------------------------------


class Told:
    """An encoder that says of each picture what it is told, in their order."""

    def __init__(self, features: np.ndarray) -> None:
        self.features = features / np.linalg.norm(features, axis=1, keepdims=True)

    def embed_images(self, images: Iterable[Image.Image]) -> np.ndarray:
        assert len(list(images)) == len(self.features)
        return self.features


def spread_out(amount: float, seed: int = 0) -> np.ndarray:
    """50 features about one direction; mean cosine is near 1 / (1 + amount ** 2)."""
    noise = np.random.default_rng(seed).normal(size=(50, 64)) / 8
    return np.eye(64)[0] + amount * noise


@pytest.mark.parametrize(("amount", "codes"), [(0.6, []), (0.1, ["little variety"])])
def test_sets_that_all_look_alike_are_said(clean: Path, amount: float, codes: list[str]) -> None:
    assert [one.code for one in findings(clean, encoder=Told(spread_out(amount)))] == codes


def test_a_picture_of_something_else_is_named(clean: Path) -> None:
    features = spread_out(0.6)
    features[7] = -np.eye(64)[5]
    found = findings(clean, encoder=Told(features))
    assert [(one.code, one.picture) for one in found] == [("odd one out", "07.png")]
