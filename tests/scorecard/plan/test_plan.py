"""The plan: which pictures, in which order, and when two plans are the same run."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from lora_eval.errors import ConfigError, LoraFileError, RunError
from lora_eval.host.protocol import Sampling
from lora_eval.scorecard.plan.checkpoints import read_loras, slug
from lora_eval.scorecard.plan.make import PRESETS, make_plan
from lora_eval.scorecard.plan.plan import Plan
from lora_eval.scorecard.plan.request import ScoreRequest
from tests.fakes_scorecard import FakeHost, make_lora


@pytest.fixture
def plan(tmp_path):
    loras = [
        make_lora(tmp_path / f"mine-{step:06d}.safetensors", step / 200, metadata={"ss_steps": str(step)})
        for step in (200, 100)
    ]
    return make_plan(
        FakeHost(tmp_path),
        ScoreRequest(
            loras,
            kind="object",
            suite="tiny",
            preset="quick",
            weights="0-1 [3]",
            seeds=2,
            prompts=3,
            trigger="zorp",
            class_word="shape",
        ),
    )


def test_weight_0_first_and_once_then_checkpoint_weight_prompt_seed(plan):
    cells = plan.cells()
    assert len(cells) == len(plan) == 6 + 2 * 2 * 6
    assert all(cell.lora is None and cell.weight == 0 for cell in cells[:6])
    order = [(c.lora.step, c.weight, c.prompt.id, c.seed) for c in cells[6:]]
    prompts = [prompt.id for prompt in plan.prompts]
    expected = [(s, w, p, n) for s in (100, 200) for w in (0.5, 1.0) for p in prompts for n in (1, 2)]
    assert order == expected


def test_cell_ids_are_unique_stable_and_safe_as_file_names(plan):
    ids = [cell.id for cell in plan.cells()]
    assert len(set(map(str.lower, ids))) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,140}", cell_id) for cell_id in ids)
    assert ids[0] == "base_w0_plain-red_s1"
    assert re.fullmatch(r"mine-000100-[0-9a-f]{6}_w0\.5_plain-red_s1", ids[6])


def test_batches_never_mix_weights_and_do_not_depend_on_what_is_drawn(plan):
    for size in (1, 4, 100):
        batches = list(plan.batches(size))
        assert [c for batch in batches for c in batch] == plan.cells()
        assert all(len({(c.lora, c.weight) for c in batch}) == 1 and len(batch) <= size for batch in batches)


def test_json_gives_the_same_plan_back(plan):
    text = json.dumps(plan.to_json(), allow_nan=False)
    assert Plan.from_json(json.loads(text)) == plan


def test_everything_needed_to_draw_again_is_in_the_json(plan):
    raw = plan.to_json()
    assert raw["schema"] == 1
    assert raw["model"] == {**raw["model"], "name": "fake", "sha256": "a" * 64, "family": "sd1"}
    assert [(lora["step"], len(lora["sha256"])) for lora in raw["loras"]] == [(100, 64), (200, 64)]
    assert raw["host"]["name"] == "standalone" and raw["sampling"]["sampler"] == "Euler"
    assert raw["prompts"][0]["text"] == "a red zorp, gray background"
    assert list(raw["weights"]) == [0, 0.5, 1] and list(raw["seeds"]) == [1, 2]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": {"name": "other", "sha256": "a" * 64}}, 'model "fake" is now "other"'),
        ({"model": {"name": "fake", "sha256": "b" * 64}}, "model fake is another file"),
        ({"weights": (0.0, 1.0)}, 'weights "0, 0.5, 1" is now "0, 1"'),
        ({"seeds": (1,)}, "seeds"),
        ({"sampling": Sampling(steps=5, width=64, height=64)}, 'steps "20" is now "5"'),
        ({"prompts": ()}, "prompts"),
        ({"loras": ()}, "LoRAs"),
    ],
)
def test_another_run_in_the_folder_is_refused_by_its_difference(plan, tmp_path, change, says):
    with pytest.raises(RunError, match=re.escape(says)) as error:
        plan.agreed(replace(plan, **change), tmp_path)
    assert "choose another folder" in str(error.value) and "\n" not in str(error.value)


def test_a_lora_file_of_the_same_name_but_other_content_is_refused(plan, tmp_path):
    changed = tuple(replace(lora, sha256="c" * 64) for lora in plan.loras)
    with pytest.raises(RunError, match="LoRA mine-000100 is another file"):
        plan.agreed(replace(plan, loras=changed), tmp_path)


def test_what_matters_to_measuring_alone_may_change(plan, tmp_path):
    asked = replace(plan, kind="style", references="elsewhere", encoder="ViT-L-14/openai", batch_size=9)
    agreed = plan.agreed(asked, tmp_path)
    assert (agreed.kind, agreed.references, agreed.encoder) == ("style", "elsewhere", "ViT-L-14/openai")
    # the cut into batches belongs to the pictures that are there
    assert agreed.batch_size == plan.batch_size


def test_another_schema_or_a_broken_plan_is_one_line(plan):
    for raw in (
        [],
        {"schema": "x"},
        {**plan.to_json(), "schema": 99},
        {"schema": 1},
        {**plan.to_json(), "seeds": ["a"]},
    ):
        with pytest.raises(RunError, match=r"plan\.json"):
            Plan.from_json(raw)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_how_many_images(tmp_path, name):
    lora = make_lora(tmp_path / "a.safetensors")
    plan = make_plan(FakeHost(tmp_path), ScoreRequest([lora], preset=name))
    assert len(plan) == PRESETS[name].images(1)
    assert plan.sampling.width == 64


def test_zero_is_always_among_the_weights_and_they_are_sorted(tmp_path):
    plan = make_plan(FakeHost(tmp_path), ScoreRequest([make_lora(tmp_path / "a.safetensors")], weights="0.9, 0.4"))
    assert plan.weights == (0.0, 0.4, 0.9)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"weights": "0"}, "nothing but 0"),
        ({"weights": "20"}, "between -10 and 10"),
        ({"weights": [0.123456789]}, "too many digits"),
        ({"seeds": 0}, "no seeds"),
        ({"seeds": [-1]}, "out of range"),
        ({"kind": "animal"}, 'kind "animal"'),
        ({"preset": "huge"}, 'preset "huge"'),
    ],
)
def test_bad_settings_are_one_line(tmp_path, given, says):
    with pytest.raises(ConfigError, match=says):
        make_plan(FakeHost(tmp_path), ScoreRequest([make_lora(tmp_path / "a.safetensors")], **given))


def test_steps_come_from_metadata_or_from_a_step_in_the_name_not_from_an_epoch(tmp_path):
    loras, _ = read_loras(
        [
            make_lora(tmp_path / "a-000010.safetensors", 1),
            make_lora(tmp_path / "a-step00000500.safetensors", 2),
            make_lora(tmp_path / "a.safetensors", 3, metadata={"ss_steps": "900", "ss_output_name": "a"}),
        ]
    )
    assert [(lora.name, lora.step, lora.series) for lora in loras] == [
        ("a-step00000500", 500, "a"),
        ("a", 900, "a"),
        ("a-000010", None, "a"),
    ]


def test_a_name_that_ends_in_a_date_is_no_step(tmp_path):
    """The file knows the name that training gave; by the stem alone a date and a step look alike."""
    given = {"ss_output_name": "style-20260131"}
    files = [
        make_lora(tmp_path / f"style-20260131{end}.safetensors", n, metadata=given)
        for n, end in enumerate(("", "-000100", "-step200"), 1)
    ]
    loras, _ = read_loras(files)
    assert {lora.series for lora in loras} == {"style-20260131"}
    renamed = make_lora(tmp_path / "mine-000100.safetensors", 9, metadata=given)
    assert read_loras([renamed])[0][0].series == "mine"


def test_two_files_of_one_name_are_refused_and_the_same_file_twice_counts_once(tmp_path):
    one, two = make_lora(tmp_path / "x/a.safetensors"), make_lora(tmp_path / "y/a.safetensors", 0.5)
    with pytest.raises(LoraFileError, match="share the name a"):
        read_loras([one, two])
    assert len(read_loras([one, one])[0]) == 1


def test_missing_empty_and_pickled_files_are_one_line(tmp_path):
    pickled = tmp_path / "p.safetensors"
    pickled.write_bytes(b"\x80\x04\x95" + b"x" * 50)
    empty = tmp_path / "e.safetensors"
    empty.touch()
    for path in (tmp_path / "none.safetensors", pickled, empty):
        with pytest.raises(LoraFileError, match=path.name) as error:
            read_loras([path])
        assert "\n" not in str(error.value)
    with pytest.raises(LoraFileError, match="no LoRA"):
        read_loras([])


def test_slugs_are_safe_and_never_empty():
    assert slug("my LoRA/v1.5: ü") == "my-LoRA-v1.5"
    assert re.fullmatch("x[0-9a-f]{6}", slug("作品"))
