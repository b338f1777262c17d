"""The benches say what the numbers say: thresholds and same features, on planted results."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("open_clip")

import benchmarks
from benchmarks import embedding, gpu_check, hard_negatives
from benchmarks.training import Rounds


def pair(fidelity: tuple[float, float], leak: tuple[float, float], seed: int = 0) -> dict[str, Any]:
    rest = {"seed": seed, "attributes": 1.0, "kept": 1.0, "near": 0.0}
    return {
        arm: {**rest, "fidelity": f, "leak": x} for arm, f, x in zip(hard_negatives.ARMS, fidelity, leak, strict=True)
    }


@pytest.mark.parametrize(
    ("pairs", "good"),
    [
        ([pair((0.90, 0.88), (0.40, 0.27))], True),
        ([pair((0.90, 0.88), (0.40, 0.30))], False),
        ([pair((0.90, 0.80), (0.40, 0.00))], False),
        ([pair((0.90, 0.80), (0.40, 0.10)), pair((0.90, 0.98), (0.40, 0.10), 1)], True),
    ],
)
def test_hard_negatives_hold_when_leak_is_down_by_30_percent_at_fidelity_within_3(
    pairs: list[dict[str, Any]], good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hard_negatives.show(pairs) is good
    out = capsys.readouterr().out
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len(table) == 3 + len(pairs) and len({line.count("|") for line in table}) == 1
    assert f"n = {len(pairs)} pairs" in out


def test_steps_alternate_and_neither_warm_up_nor_the_last_step_is_counted() -> None:
    order: list[str] = []
    job = Rounds(5, lambda: order.append("other"))
    for _ in range(job.total):
        order.append("ours")
        job.advance()
    assert order == ["ours", "other"] * job.total
    assert len(job.ours) == len(job.others) == 4


def test_speeds_of_different_features_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    class Turned:
        batch_size, _model = 4, None

        def embed_images(self, images: list[Any]) -> np.ndarray:
            return np.eye(2)[: len(images)]

    monkeypatch.setattr(embedding, "bare", lambda model, batch: lambda images: np.eye(2)[::-1][: len(images)])
    with pytest.raises(ValueError, match="features differ"):
        embedding.compare("x", Turned(), embedding.pictures(2, 8), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__)))
def test_every_benchmark_is_run_by_name(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    if not name.startswith("_"):
        assert list(inspect.signature(module.main).parameters) == ["argv"]
        assert module.__doc__


def test_the_gpu_check_goes_on_past_a_section_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--cpu", "--tiny", "--out", str(tmp_path), "--sections", "no_such_section,memory"]) == 1
    found = json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))["sections"]
    assert not found["no_such_section"]["passed"] and "no_such_section" in found["no_such_section"]["error"]
    assert found["memory"]["passed"] and found["memory"]["rows"][0]["result"].startswith("not measured")
    assert "failed: no_such_section" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gpu_check_runs_on_the_processor(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    assert gpu_check.main(["--cpu", "--tiny", "--out", str(tmp_path)]) == 0
