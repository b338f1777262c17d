"""The tool that reads by how much the extension lengthens a WebUI's start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.startup import lengthening, read_start

LINE = "Startup time: {}s (import torch: 4.0s, load scripts: 1.5s, create ui: {}s, add APIs: 1.2s)."


def test_the_last_start_of_a_log_counts(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(f"Loading\n{LINE.format(9.0, 2.0)}\nClosing\n{LINE.format(10.5, 3.25)}\nCPU time: 8.25s\n")
    assert read_start(log) == {
        "Startup time": 10.5, "import torch": 4.0, "load scripts": 1.5, "create ui": 3.25, "add APIs": 1.2,
        "CPU time": 8.25,
    }  # fmt: skip


def test_a_log_without_a_start_is_an_error_that_names_it(tmp_path: Path) -> None:
    log = tmp_path / "broken.log"
    log.write_text("Traceback\n")
    with pytest.raises(ValueError, match=r"broken\.log"):
        read_start(log)


def test_mean_and_interval_of_the_pairs_differences() -> None:
    off = [{"Startup time": value} for value in (10.0, 12.0, 11.0)]
    on = [{"Startup time": value, "create ui": 0.2} for value in (10.4, 12.2, 11.6)]
    total, ui = lengthening(on, off)
    # differences 0.4, 0.2, 0.6: deviation 0.2, t(2) = 4.30
    assert (total.phase, total.without, total.pairs) == ("Startup time", 11.0, 3)
    assert total.mean == pytest.approx(0.4) and total.half == pytest.approx(4.30 * 0.2 / 3**0.5)
    assert (ui.phase, ui.without) == ("create ui", 0.0) and ui.mean == pytest.approx(0.2)


def test_starts_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="2 logs with and 1 without"):
        lengthening([{}, {}], [{}])
