"""Two trainings of one name at the same time: each has a folder of its own, and a run that goes on is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lora_eval.errors import RunError
from lora_eval.files import hold, is_held
from lora_eval.training.config import make_config
from lora_eval.training.run import new_run
from tests.fakes import FakeHost, write_dataset

HOLD = """
import sys
from pathlib import Path
from lora_eval.files import hold
folder = Path(sys.argv[1])
with hold(folder / ".lock", folder, tidy=True):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def elsewhere(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Another process that works in ``tmp_path / "run"``."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield folder, process
    process.kill()
    process.wait()


def test_a_folder_in_use_is_refused_by_naming_the_process(elsewhere) -> None:  # type: ignore[no-untyped-def]
    folder, process = elsewhere
    assert is_held(folder / ".lock")
    with (
        pytest.raises(RunError, match=f"run is in use by process {process.pid}; wait for it"),
        hold(folder / ".lock", folder),
    ):
        pass


def test_a_killed_process_leaves_no_lock(elsewhere) -> None:  # type: ignore[no-untyped-def]
    folder, process = elsewhere
    process.kill()
    process.wait()
    assert not is_held(folder / ".lock")
    with hold(folder / ".lock", folder, tidy=True):
        assert is_held(folder / ".lock")
    assert not (folder / ".lock").exists()


def test_the_lock_is_released_however_the_block_ends(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), hold(tmp_path / ".lock", tmp_path):
        raise ValueError("inside")
    assert not is_held(tmp_path / ".lock")


def test_a_second_training_of_the_name_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 2)
    config = make_config({"train_data_dir": str(data), "name": "fox", "output_dir": str(tmp_path / "out")})
    first = new_run(config, FakeHost(tmp_path))
    with hold(first.lock, first.folder, tidy=True):
        # nothing is saved yet: only the lock says that somebody is there
        assert new_run(config, FakeHost(tmp_path)).folder.name == "fox-2"
    assert new_run(config, FakeHost(tmp_path)).folder == first.folder
