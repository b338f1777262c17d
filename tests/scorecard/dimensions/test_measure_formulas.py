"""What single numbers of the measures are, against formulas written out: style spread, margin, leak."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from lora_eval.scorecard.dimensions.measure import measure
from tests.scorecard.dimensions.test_measure import row
from tests.scorecard.synthetic_run import make_run


def test_the_style_spread_has_an_interval_where_one_prompt_holds_most_of_the_base_models_spread() -> None:
    run = make_run("good", roles=("plain", "fidelity", "challenge", "composition", "unrelated"))
    rng = np.random.default_rng(0)
    with_lora = (run.cells["weight"] > 0).to_numpy()
    uneven = np.where(run.cells["prompt_id"] == "plain-0", 3.0, 0.1)
    styles = rng.normal(size=run.styles.shape) * np.where(with_lora, 12.0, uneven)[:, None]
    found = measure(replace(run, styles=styles.astype(np.float32)), resamples=300)
    for weight in (0.4, 0.8, 1.2):
        ratio = row(found, "consistency", "style_spread_ratio", weight)
        assert ratio.ci_low is not None and ratio.ci_high is not None
        assert 0.0 < ratio.ci_low < ratio.value < ratio.ci_high


def test_the_style_ratio_is_of_mean_distances_between_seeds() -> None:
    run = make_run("good", roles=("plain", "fidelity", "challenge", "composition", "unrelated"))
    scale = run.styles[((run.cells["weight"] == 0) & (run.cells["role"] != "unrelated")).to_numpy()]
    found = row(measure(run, resamples=50), "consistency", "style_spread_ratio", 0.8)
    # the scale by pairs of pictures of different prompts, one statistic at a time
    prompts = run.cells.loc[(run.cells["weight"] == 0) & (run.cells["role"] != "unrelated"), "prompt_id"].tolist()
    pairs = [(i, j) for i, j in combinations(range(len(prompts)), 2) if prompts[i] != prompts[j]]
    unit = np.sqrt(np.mean([(scale[i].astype(float) - scale[j]) ** 2 / 2 for i, j in pairs], axis=0))

    def spread(weight: float) -> float:
        here = run.cells[(run.cells["weight"] == weight) & (run.cells["role"] != "unrelated")]
        distances = []
        for _, group in here.groupby("prompt_id"):
            styles = [run.styles[i].astype(float) / unit for i in group.index]
            distances.append(np.mean([np.sqrt(np.mean((a - b) ** 2) / 2) for a, b in combinations(styles, 2)]))
        return float(np.mean(distances))

    assert found.value == pytest.approx(spread(0.8) / spread(0.0), rel=1e-4)


def test_the_unit_of_style_is_the_same_on_average_however_few_prompts_there_are() -> None:
    """Half of the variance between prompts, half within: three prompts must not make the unit smaller."""
    from lora_eval.scorecard.dimensions.consistency.formulas import style_scale

    rng = np.random.default_rng(3)
    squares = []
    for _ in range(600):
        styles = rng.normal(size=(3, 1, 5)) + rng.normal(size=(3, 4, 5))
        squares.append(style_scale(styles.reshape(-1, 5), np.arange(12).reshape(3, 4)) ** 2)
    assert np.mean(squares) == pytest.approx(2.0, rel=0.05)


def test_the_margin_is_held_against_the_prompts_that_are_judged() -> None:
    """A prompt without the trigger is no part of it: whatever its text says, the score stays."""
    run = make_run("good", roles=("plain", "fidelity", "challenge", "composition", "unrelated"))
    (text,) = {p.class_text for p in run.prompts.values() if p.role == "unrelated"}
    judged = next(p.class_text for p in run.prompts.values() if p.role == "plain")
    other = replace(run, texts={**run.texts, text: run.texts[judged]})
    before, after = (row(measure(r, 50), "alignment", "score", 0.8) for r in (run, other))
    assert (before.value, before.ci_low, before.ci_high) == (after.value, after.ci_low, after.ci_high)


def test_a_prompt_left_out_is_missed_as_a_picture_and_as_a_text() -> None:
    """Jackknife of the mean margin, prompt by prompt, against the values that are resampled."""
    from lora_eval.scorecard.dimensions.alignment.formulas import as_others

    rng = np.random.default_rng(1)
    prompts, seeds = 24, 3
    # texts that draw the pictures of others pull the margins of all others down
    others_only = 1.0 - np.eye(prompts)[:, None, :]
    drawn = 0.1 * rng.normal(size=prompts) * others_only
    cosine = 0.3 * (1.0 - others_only) + drawn + 0.02 * rng.normal(size=(prompts, seeds, prompts))

    def margin(kept: list[int]) -> float:
        return float(np.mean([[cosine[p, m, p] - np.mean([cosine[p, m, q] for q in kept if q != p])
                               for m in range(seeds)] for p in kept]))  # fmt: skip

    everyone = list(range(prompts))
    left_out = np.array([margin([q for q in everyone if q != p]) for p in everyone])
    jackknife = float(np.sqrt((prompts - 1) / prompts * ((left_out - left_out.mean()) ** 2).sum()))
    similarity = cosine.reshape(-1, prompts)
    own = np.repeat(np.arange(prompts), seeds)
    rows = np.arange(len(own)).reshape(1, prompts, seeds)
    values = similarity[np.arange(len(own)), own]
    margins = (values - (similarity.sum(axis=1) - values) / (prompts - 1)).reshape(1, prompts, seeds)
    others = as_others(similarity, own, rows, margins, everyone)
    assert others.mean() == pytest.approx(0.0, abs=1e-12)

    def error(cube: np.ndarray) -> float:
        return float(cube.mean(axis=2)[0].std(ddof=1) / np.sqrt(prompts))

    assert error(margins - others) == pytest.approx(jackknife, rel=0.1)
    # as pictures alone the prompts say less than half of it
    assert error(margins) < 0.5 * jackknife


def test_leak_is_the_movement_without_the_trigger_over_that_of_all_prompts_with_it() -> None:
    run = make_run("leak", roles=("plain", "fidelity", "challenge", "composition", "negative", "unrelated"))
    found = measure(run, resamples=50)
    here = (run.cells["weight"] == 0.8).to_numpy()
    gain, roles = found.cell_metrics["clip_i_gain"], run.cells["role"]
    expected = gain[here & (roles == "unrelated")].mean() / gain[here & ~roles.isin(("unrelated", "negative"))].mean()
    assert row(found, "generalisation", "leak", 0.8).value == pytest.approx(expected, abs=1e-5)
