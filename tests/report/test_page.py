"""report.html: one file, no network, everything escaped, nothing claimed that was not measured."""

from __future__ import annotations

import html.parser
import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lora_eval.report.card import card_json, plain
from lora_eval.report.cells import cell_table
from lora_eval.report.explore import explore
from lora_eval.report.page import render
from lora_eval.report.sections import Report
from lora_eval.report.thumbs import Thumbs, data_uri, href
from lora_eval.report.words import CELL_FACTS
from lora_eval.scorecard.data import Advice, Dimension, Scorecard
from lora_eval.scorecard.dimensions.registry import NAMES as DIMENSIONS
from lora_eval.scorecard.plan.plan import AXES
from tests.fakes_scorecard import random_of, small_score

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, text, and whether every tag is closed."""

    VOID = frozenset({"meta", "img", "br", "line", "circle", "rect", "polygon", "polyline", "path"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in self.VOID:
            self.wrong.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def script_data(page: str) -> dict:
    """What the page hands to its script."""
    return json.loads(re.search(r'<script type="application/json" id="cells">(.*?)</script>', page, re.S)[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(run folder, what the page was made from, the page) of a small run."""
    from lora_eval.report import page as page_module
    from lora_eval.report import results

    root = tmp_path_factory.mktemp("page")
    seen = {}

    def keep(path, data, measurement, card, folder, paths):
        seen.update(data=data, measurement=measurement, card=card, root=folder, paths=paths)
        page_module.write_page(path, data, measurement, card, folder, paths)

    patch = pytest.MonkeyPatch()
    patch.setattr(results, "write_page", keep)
    small_score(root, root / "run")
    patch.undo()
    return root / "run", seen, (root / "run" / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_the_verdict_comes_first(run):
    _, seen, page = run
    parsed = Parsed(page)
    assert parsed.open == [] and parsed.wrong == []
    assert parsed.text.index(seen["card"].verdict) < parsed.text.index("Six dimensions")


def test_nothing_is_loaded_from_the_network(run):
    _, _, page = run
    parsed = Parsed(page)
    addresses = [a.get(key) for _, a in parsed.tags for key in ("src", "href", "data-full") if a.get(key) is not None]
    assert addresses
    for address in addresses:
        assert re.match(r"data:image/(webp|jpeg);base64,|images/|file:///", address), address[:60]
    assert not parsed.all("link") and not re.search(r"https?://|@import|url\(", page)


def test_every_picture_is_in_the_gallery_with_its_twin_and_numbers(run):
    folder, seen, page = run
    buttons = [a for a in Parsed(page).all("button") if "data-cell" in a]
    cells, told = seen["data"].cells, script_data(page)
    assert sorted(int(a["data-cell"]) for a in buttons) == list(range(len(cells)))
    assert set(told["images"]) == {f"images/{path.name}" for path in (folder / "images").iterdir()}
    for place, text in zip(told["at"]["prompt"], cells["prompt"], strict=True):
        assert told["axes"]["prompt"][place].startswith(text)
    for at, (_, row) in enumerate(cells.iterrows()):
        twin = told["twin"][at]
        if row["weight"] == 0:
            assert twin == -1
        else:
            base = cells.iloc[twin]
            assert (base["weight"], base["prompt_id"], base["seed"]) == (0, row["prompt_id"], row["seed"])
    clip_t = next(one for one in told["metrics"] if one["key"] == "clip_t")
    wanted = seen["measurement"].cell_metrics["clip_t"].to_numpy()
    assert np.allclose(np.array(clip_t["values"], float), wanted, atol=6e-4)
    assert clip_t["label"] == "fit to the prompt (CLIP-T)" and clip_t["about"].endswith(".")


def test_every_picture_stands_beside_the_reference_most_like_it(run):
    _, seen, page = run
    told, data = script_data(page), seen["data"]
    likeness = data.features @ data.references.features.T
    assert told["near"] == likeness.argmax(axis=1).tolist()
    assert np.allclose(told["nearCosine"], likeness.max(axis=1), atol=6e-4)
    for index in set(told["near"]):
        reference = told["references"][index]
        assert reference["name"] == data.references.names[index] and reference["src"].startswith("data:image/")


def test_every_metric_that_is_shown_is_explained_in_a_sentence():
    for label, digits, about in CELL_FACTS.values():
        assert label and digits >= 1 and about[0].isupper() and about.endswith(".") and len(about.split()) > 8


@pytest.mark.parametrize(("x", "y"), list(itertools.permutations(AXES, 2)))
def test_the_map_shows_the_means_of_the_pictures_at_each_place(run, x, y):
    """Against a plain pandas group-by: held axes at the recommendation, weight 0 in every checkpoint's row."""
    _, seen, _ = run
    data, measurement = seen["data"], seen["measurement"]
    card = replace(seen["card"], checkpoint="zorp-000200", weight=0.5, provenance={"axes": [x, y]})
    report = Report(data, measurement, card, Thumbs(seen["root"]), seen["paths"])
    table = cell_table(report)
    assert table.chosen == (x, y)
    page = explore(table)
    cells = pd.concat([data.cells, measurement.cell_metrics], axis=1)
    names = {"weight": "weight", "checkpoint": "checkpoint", "prompt": "prompt_id", "seed": "seed"}
    bare = cells[cells["weight"] == 0]
    rows = cells[cells["weight"] > 0]
    if "checkpoint" in (x, y):
        # the base model's pictures are everybody's
        bare = pd.concat([bare.assign(checkpoint=name) for name in rows["checkpoint"].unique()])
    if "weight" in (x, y):
        rows = pd.concat([bare, rows])
    if "weight" not in (x, y):
        rows = rows[rows["weight"] == 0.5]
    if "checkpoint" not in (x, y):
        rows = rows[(rows["checkpoint"] == "zorp-000200") | (rows["weight"] == 0)]
    wanted = rows.groupby([names[y], names[x]], sort=False)["clip_i_gain"].mean()
    shown = re.findall(r'data-cells="([\d,]+)"[^>]*>([^<]+)</button>', page)
    assert len(shown) == len(wanted)
    means = sorted(round(float(words.replace("−", "-")), 3) for _, words in shown)
    assert np.allclose(means, sorted(wanted.round(3)), atol=1.1e-3)
    assert sum(len(cells.split(",")) for cells, _ in shown) == len(rows)


def test_all_six_dimensions_are_there_with_number_or_reason(run):
    _, seen, page = run
    text = re.sub(r"\s+", " ", Parsed(page).text)
    for name in DIMENSIONS:
        dimension = seen["card"].dimensions[name]
        assert dimension.reason[1:].strip(".") in text
        assert (f"{dimension.score:.2f}" if dimension.score is not None else "no number") in text


def test_text_from_outside_cannot_become_markup(run):
    folder, seen, _ = run
    data, card = seen["data"], seen["card"]
    cells = data.cells.copy()
    cells["prompt"] = EVIL
    cells["negative_prompt"] = EVIL
    cells["checkpoint"] = [EVIL if name else "" for name in cells["checkpoint"]]
    cells["role"] = EVIL
    hostile = Scorecard(
        verdict=EVIL,
        checkpoint=EVIL,
        weight=1.0,
        tie=[],
        dimensions={
            name: Dimension(
                name, 0.5, 0.1, 0.9, 3, EVIL, EVIL,
                {"drifting": [{"image": EVIL, "z": 4.0}],
                 "copies": [{"image": EVIL, "training": EVIL, "cosine": 1, "ssim": 1}],
                 "best_and_worst": {"best": EVIL, "worst": EVIL}, "elements": [{"prompt": EVIL, "element": EVIL}]},
            )
            for name in DIMENSIONS
        },
        advice=[Advice(EVIL, EVIL, EVIL)],
        gates=[EVIL],
        provenance={"run": EVIL, EVIL: {EVIL: [EVIL]}, "program": EVIL, "created": EVIL},
        leaderboard=[{**entry, "checkpoint": EVIL, "gates": [EVIL]} for entry in card.leaderboard],
    )  # fmt: skip
    measurement = replace(seen["measurement"], notes={EVIL: EVIL})
    measurement.evidence = {
        "strength": {"curves": {EVIL: next(iter(seen["measurement"].evidence["strength"]["curves"].values()))}},
    }
    page = render(replace(data, cells=cells, notes={EVIL: EVIL}), measurement, hostile, folder, seen["paths"])
    parsed = Parsed(page)
    # the data, which no text can end, and the script
    assert [a.get("type") for a in parsed.all("script")] == ["application/json", None]
    assert script_data(page)["axes"]["prompt"][0] == f"{EVIL} (negative: {EVIL})"
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert parsed.open == [] and parsed.wrong == []
    assert parsed.text.count(EVIL) > 15


def test_pictures_beyond_the_budget_are_linked_and_it_is_said(run):
    folder, seen, whole = run
    page = render(seen["data"], seen["measurement"], seen["card"], folder, seen["paths"], budget=3000)
    sources = [a["src"] for a in Parsed(page).all("img")]
    linked = [source for source in sources if not source.startswith("data:")]
    assert linked and len(linked) < len(sources)
    assert all(source.startswith("thumbs/") and (folder / source).is_file() for source in linked)
    assert len(page) < len(whole) and "must lie beside this page" in page
    assert "must lie beside this page" not in whole


def test_thumbs_embed_each_picture_once_within_the_budget(tmp_path):
    for name in range(12):
        picture = random_of(name).integers(0, 256, (256, 256, 3), dtype="uint8")
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    thumbs = Thumbs(tmp_path, budget=60_000)
    first = [thumbs.src(f"{name}.png") for name in range(12)]
    again = [thumbs.src(f"{name}.png") for name in range(12)]
    assert first == again and thumbs.embedded + thumbs.linked == 12 and thumbs.linked > 0
    embedded = [len(source) for source in first if source.startswith("data:")]
    assert sum(embedded) <= 60_000
    assert thumbs.src("none.png") == ""


def test_216_pictures_of_512_pixels_stay_far_below_ten_megabytes():
    soft = Image.fromarray(random_of(1).integers(0, 256, (40, 40, 3), dtype="uint8")).resize((512, 512))
    assert 216 * len(data_uri(soft)) < 10_000_000 / 2


def test_a_small_picture_keeps_its_pixels():
    uri = data_uri(Image.new("RGB", (64, 64)))
    import base64
    import io

    assert Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size == (64, 64)


def test_links_are_quoted(tmp_path):
    assert href("images/a b#1.png") == "images/a%20b%231.png"
    assert href('images/"><x.png') == "images/%22%3E%3Cx.png"
    assert href(tmp_path / "a b.png").startswith("file:///") and " " not in href(tmp_path / "a b.png")


def test_the_card_says_null_and_why_for_what_was_not_measured():
    card = Scorecard("v", None, None, [], {}, [], [])
    made = card_json(card)
    assert made["recommended"] == {"checkpoint": None, "weight": None}
    assert list(made["dimensions"]) == list(DIMENSIONS)
    for dimension in made["dimensions"].values():
        assert dimension["score"] is None and dimension["verdict"] == "not measured" and dimension["reason"]


def test_the_card_is_json_whatever_numbers_went_in():
    value = {
        1: np.float32(0.5),
        "a": [np.nan, np.inf, np.int64(3), np.bool_(True)],
        "b": (np.arange(2), None),
        "c": {1.5},
    }
    text = json.dumps(plain(value), allow_nan=False)
    assert json.loads(text) == {"1": 0.5, "a": [None, None, 3, True], "b": [[0, 1], None], "c": [1.5]}
