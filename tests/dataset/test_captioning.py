"""Captions of a folder: made where there are none, never over a person's own, the same every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_eval.dataset.autocaption import load_terms
from lora_eval.dataset.caption_edit import Edit
from lora_eval.dataset.captioning import TERMS, TINY_TERMS, CaptionOrder, caption_folder
from lora_eval.dataset.folder import scan
from lora_eval.errors import ConfigError, DatasetError
from tools.tiny_world.drawings import Drawing, render, sample

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Colours:
    """An encoder whose features are colours; a text without a colour lies across from all of them."""

    def __init__(self) -> None:
        self.pictures = 0

    def embed_images(self, images: Iterable[Image.Image]) -> np.ndarray:
        found = np.stack([[*np.asarray(image, np.float32).mean((0, 1)) / 255, 0.0] for image in images])
        self.pictures += len(found)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        grey = np.array([0.0, 0.0, 0.0, 1.0])
        return np.array([next((np.eye(4)[i] for i, c in enumerate(COLOURS) if c in text), grey) for text in texts])


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    path = tmp_path / "terms.yaml"
    path.write_text(
        "subject: {prompt: 'a picture of {}', terms: [a red thing, a green thing, a blue thing]}\n"
        "colour: {prompt: 'a {} picture', terms: ['', red, green, blue]}\n"
    )
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (32, 32), colour).save(data / f"{name}.png")
    return data


def captions(folder: Path) -> dict[str, str]:
    return {item.path.stem: item.caption for item in scan(folder).items}


def run(folder: Path, terms: Path, encoder: Colours | None = None, **order: object):  # type: ignore[no-untyped-def]
    dry_run = bool(order.pop("dry_run", False))
    return caption_folder(
        folder, CaptionOrder(terms=terms, **order), encoder=encoder or Colours(), dry_run=dry_run  # type: ignore[arg-type]
    )  # fmt: skip


class TestMaking:
    def test_terms_trigger_and_class_word(self, folder: Path, terms: Path) -> None:
        run(folder, terms, trigger="zorp")
        assert captions(folder)["red"] == "zorp, a red thing, red"
        run(folder, terms, trigger="zorp", class_word="toy", overwrite=True)
        assert captions(folder)["red"] == "zorp toy, red", "the class word stands for the subject: none is guessed"

    def test_what_a_person_wrote_stays(self, folder: Path, terms: Path) -> None:
        (folder / "red.txt").write_text("by hand")
        encoder = Colours()
        found = run(folder, terms, encoder, trigger="zorp")
        assert captions(folder)["red"] == "by hand"
        assert encoder.pictures == 2 and [change.name for change in found.changes] == ["blue.png", "green.png"]

    def test_overwrite_replaces_it(self, folder: Path, terms: Path) -> None:
        (folder / "red.txt").write_text("by hand")
        run(folder, terms, overwrite=True)
        assert captions(folder)["red"] == "a red thing, red"

    def test_again_changes_nothing_and_asks_no_encoder(self, folder: Path, terms: Path) -> None:
        run(folder, terms, trigger="zorp")
        before = (folder / "metadata.csv").read_bytes()
        encoder = Colours()
        found = run(folder, terms, encoder, trigger="zorp")
        assert (found.changes, found.written, encoder.pictures) == ([], [], 0)
        assert (folder / "metadata.csv").read_bytes() == before

    def test_a_dry_run_writes_nothing_and_foretells_what_is_written(self, folder: Path, terms: Path) -> None:
        foretold = run(folder, terms, trigger="zorp", dry_run=True)
        assert sorted(path.name for path in folder.iterdir()) == ["blue.png", "green.png", "red.png"]
        done = run(folder, terms, trigger="zorp")
        assert foretold.changes == done.changes and foretold.written == []
        assert captions(folder) == {change.path.stem: change.after for change in done.changes}

    @pytest.mark.parametrize(("form", "names"), [("csv", {"metadata.csv"}), ("txt", {f"{c}.txt" for c in COLOURS})])
    def test_the_form_asked_for(self, folder: Path, terms: Path, form: str, names: set[str]) -> None:
        found = run(folder, terms, form=form)
        assert {path.name for path in found.written} == names

    def test_a_picture_of_nothing_known_is_left_bare_and_said_so(self, folder: Path, terms: Path) -> None:
        Image.new("RGB", (32, 32), (120, 120, 120)).save(folder / "grey.png")
        found = run(folder, terms, sure=0.6)
        assert captions(folder)["grey"] == ""
        assert any("1 picture(s): no term was sure enough" in note for note in found.notes)

    def test_a_broken_picture_is_named_and_the_others_are_captioned(self, folder: Path, terms: Path) -> None:
        (folder / "broken.png").write_bytes(b"\x89PNG")
        found = run(folder, terms)
        assert len(found.failed) == 1 and "broken.png" in found.failed[0]
        assert captions(folder)["red"] == "a red thing, red"

    def test_a_table_left_behind_is_pointed_out(self, folder: Path, terms: Path) -> None:
        run(folder, terms)
        assert any("wins over the sidecars; remove it" in note for note in run(folder, terms, form="txt").notes)

    def test_pictures_outside_the_table_are_counted(self, folder: Path, terms: Path) -> None:
        (folder / "metadata.csv").write_text("file_name,prompt\nred.png,\n")
        found = run(folder, terms)
        assert any("2 picture(s) are not in metadata.csv" in note for note in found.notes)


class TestEditing:
    def test_find_and_replace_needs_no_encoder_and_makes_nothing(self, folder: Path, terms: Path) -> None:
        (folder / "red.txt").write_text("old hat")
        encoder = Colours()
        found = run(folder, terms, encoder, edit=Edit(replace=(("old", "new"),)))
        assert captions(folder)["red"] == "new hat" and encoder.pictures == 0
        assert any("2 picture(s) have no caption to edit" in note for note in found.notes)

    def test_the_trigger_touches_captions_there_already_only_as_prefix(self, folder: Path, terms: Path) -> None:
        (folder / "red.txt").write_text("by hand")
        run(folder, terms, trigger="zorp", edit=Edit(append="end"))
        assert captions(folder)["red"] == "by hand, end"
        run(folder, terms, trigger="zorp", prefix=True)
        assert captions(folder)["red"] == "zorp, by hand, end"

    def test_prefix_without_a_trigger_and_a_share_out_of_range_are_refused(self, folder: Path, terms: Path) -> None:
        with pytest.raises(ConfigError, match="--trigger"):
            run(folder, terms, prefix=True)
        with pytest.raises(ConfigError, match="between 0 and 1"):
            run(folder, terms, sure=1.5)

    def test_a_folder_that_is_not_there(self, tmp_path: Path, terms: Path) -> None:
        with pytest.raises(DatasetError, match="does not exist"):
            run(tmp_path / "nothing", terms)


class TestShippedTerms:
    @pytest.mark.parametrize("path", [TERMS, TINY_TERMS])
    def test_each_group_is_said_at_most_once_and_no_term_twice(self, path: Path) -> None:
        for group in load_terms(path):
            assert group.prompt.count("{}") == 1 and len(set(group.terms)) == len(group.terms)

    def test_there_are_a_few_hundred(self) -> None:
        groups = {group.name: group.terms for group in load_terms(TERMS)}
        assert {"subject", "view", "framing", "light", "place", "medium", "colours"} <= set(groups)
        assert sum(map(len, groups.values())) > 300

    def test_no_caption_of_the_tiny_list_is_beyond_the_tiny_encoder(self) -> None:
        longest = [max(group.terms, key=lambda term: len(term.split())) for group in load_terms(TINY_TERMS)]
        assert sum(len(term.split()) + 1 for term in longest) <= 22


def test_the_tiny_encoder_reads_its_world(tmp_path: Path) -> None:
    """Every attribute of fresh drawings, by the shipped encoder and terms: at least nine of ten right."""
    rng = np.random.default_rng(5)
    drawings: list[Drawing] = [sample(rng) for _ in range(40)]
    for index, drawing in enumerate(drawings):
        render(drawing).save(tmp_path / f"{index:02d}.png")
    caption_folder(tmp_path, CaptionOrder(encoder="tiny-clip"))
    said = [item.caption.split(", ") for item in scan(tmp_path).items]
    place = {"left": "on the left", "center": "in the center", "right": "on the right"}
    wanted = [
        (d.shape, d.texture, d.colour, place[d.position], f"{d.background} background") for d in drawings
    ]  # fmt: skip
    right = [term in terms for terms, all_of in zip(said, wanted, strict=True) for term in all_of]
    assert np.mean(right) >= 0.9
    again = tmp_path / "metadata.csv"
    before = again.read_bytes()
    caption_folder(tmp_path, CaptionOrder(encoder="tiny-clip", overwrite=True))
    assert again.read_bytes() == before
