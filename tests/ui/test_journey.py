"""The tabs hold no logic: entering a training in the form gives, byte for byte, what the function alone gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")
pytest.importorskip("torch")

from lora_eval.service.jobs import JobQueue
from lora_eval.training.config import make_config, to_dict
from lora_eval.training.loop import train
from lora_eval.training.templates import load_template
from lora_eval.ui import form, render
from lora_eval.ui.controller import Controller
from tests.fakes import FakeHost, write_dataset


def entered(data: Path, **values: Any) -> dict[str, Any]:
    """What the form hands over for the style template with these controls changed."""
    names = [*form.ON_TOP, *form.NAMES]
    settings = {**to_dict(load_template("style")), "train_data_dir": str(data), "name": "toy", "trigger": "zorp"}
    shown = dict(zip(names, form.show_values(names, settings), strict=True))
    shown.update(values)
    return form.read_values(list(shown), list(shown.values()))


def test_a_training_from_the_form_is_the_training_of_the_function(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 8, trigger="zorp")
    # the sampler of test pictures is not what this is about
    values = entered(data, max_steps="8", batch_size=2, save_steps=4, validation_fraction="0.25", sample_prompts="")
    hosts = [FakeHost(tmp_path / name) for name in ("page", "function")]
    controller = Controller(lambda: hosts[0], JobQueue())
    state = controller.queue.wait(controller.train(values), 120)
    assert state is not None and state.status == "finished", state
    direct = train(hosts[1], make_config(values))
    view = controller.training()
    assert view.folder == Path(state.result["folder"]) and view.job == state
    for name in ("history.csv", "config.yaml", "references.json"):
        assert (view.folder / name).read_bytes() == (direct.folder / name).read_bytes(), name
    assert sorted(path.name for path in view.folder.glob("*.safetensors")) == sorted(
        path.name for path in direct.folder.glob("*.safetensors")
    )
    assert "<svg" in render.loss(view.folder)
    assert controller.propose(view.folder).loras[0] == "toy / toy-000004"


@pytest.mark.parametrize(("max_steps", "wanted"), [("3", 3), ("", 12)])
def test_the_bar_counts_to_the_last_step_from_the_start(tmp_path: Path, max_steps: str, wanted: int) -> None:
    data = write_dataset(tmp_path / "data", 4, trigger="zorp")
    values = entered(
        data, max_steps=max_steps, epochs=6, batch_size=2, validation_fraction="0", sample_prompts="", save_steps=100
    )
    host = FakeHost(tmp_path / "host")
    asked: list[int] = []
    start = host.job

    def job(title: str, total: int) -> Any:
        asked.append(total)
        return start(title, total)

    host.job = job  # type: ignore[method-assign]
    controller = Controller(lambda: host, JobQueue())
    state = controller.queue.wait(controller.train(values), 120)
    assert state is not None and (state.status, state.done, state.total) == ("finished", wanted, wanted), state
    assert asked == [wanted]
