"""The command line round a training: kohya's TOML, measured test pictures, and a check with all that it can judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from lora_eval.cli import common
from lora_eval.cli.exits import BAD, FAILED, GOOD
from lora_eval.errors import ConfigError
from lora_eval.service import submit
from lora_eval.service.jobs import JobQueue
from lora_eval.training.config import make_config
from lora_eval.training.watch import read_samples
from lora_eval.ui.controller import Controller
from tests.command_line import one_line, run
from tests.fakes import FakeHost, write_dataset
from tests.training.test_watch import WORSENING, Planted

KOHYA = """\
[dataset_arguments]
train_data_dir = "{data}"
enable_bucket = true
[training_arguments]
output_name = "fox"
network_dim = 2
network_train_unet_only = true
max_train_steps = 3
train_batch_size = 2
bucket_reso_steps = 32
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", 6, trigger="zorp")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """The command line's host is the fake one."""
    fake = FakeHost(tmp_path / "host")
    monkeypatch.setattr(common, "open_host", lambda *_: fake)
    return fake


# -- kohya's TOML ----------------------------------------------------------------------------------------


def test_a_toml_of_kohyas_trains_as_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path, host: FakeHost
) -> None:
    config = tmp_path / "kohya.toml"
    config.write_text(KOHYA.format(data=data.as_posix()))
    code, out, err = run(capsys, "train", config, "max_steps=2", "--quiet")
    assert code == GOOD and "2 steps" in out
    assert "note: bucket_reso_steps = 32 has no counterpart and is left out" in err
    assert (host.lora_folder / "fox.safetensors").is_file()


def test_convert_shows_or_writes_it_as_yaml(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config, out_file = tmp_path / "kohya.toml", tmp_path / "ours.yaml"
    config.write_text(KOHYA.format(data="d"))
    code, out, err = run(capsys, "convert", config)
    assert code == GOOD and "bucket_reso_steps" in err
    values = yaml.safe_load(out)
    assert (values["lora_rank"], values["lora_alpha"], values["name"], values["preset"]) == (2, 1, "fox", "transformer")
    assert make_config(values).max_steps == 3
    assert run(capsys, "convert", config, "--out", out_file)[0] == GOOD
    assert yaml.safe_load(out_file.read_text()) == values
    code, _, err = run(capsys, "convert", config, "--out", out_file)
    assert code == FAILED and "--force" in err.splitlines()[-1]
    assert run(capsys, "convert", config, "--out", out_file, "--force")[0] == GOOD


def test_the_tab_takes_files_and_keeps_presets(tmp_path: Path) -> None:
    controller = Controller(lambda: FakeHost(tmp_path), JobQueue())
    config = tmp_path / "kohya.toml"
    config.write_text(KOHYA.format(data="d"))
    values, notes = controller.from_file(config)
    assert values["lora_rank"] == 2 and sum("bucket_reso_steps" in note for note in notes) == 1
    config = tmp_path / "ours.yaml"
    config.write_text("lora_rnak: 2\n")
    with pytest.raises(ConfigError, match="did you mean lora_rank"):
        controller.from_file(config)
    assert controller.presets() == []
    controller.save_preset("small", {"lora_rank": 2, "trigger": "zorp"})
    assert controller.presets() == ["small"]
    found = controller.load_preset("small")
    assert found["lora_rank"] == 2 and "trigger" not in found


# -- measured test pictures ------------------------------------------------------------------------------


def settings(data: Path, **values: Any) -> dict[str, Any]:
    base = {
        "train_data_dir": str(data), "name": "toy", "epochs": 50, "max_steps": 12, "batch_size": 2, "sample_steps": 2,
        "save_steps": 2, "sample_prompts": ["red fox"], "measure_samples": True, "sample_early_stop": 2,
    }  # fmt: skip
    return {**base, **values}


def test_train_measures_and_stops_by_the_encoder_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    embed = pytest.importorskip("lora_eval.encoders.registry")
    monkeypatch.setattr(embed, "load_encoder", lambda name, say=None: asked.append(name) or Planted(WORSENING))
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(settings(data)))
    code, out, _ = run(capsys, "train", config, "--encoder", "some/encoder", "--quiet")
    assert code == GOOD and asked == ["some/encoder"]
    assert "stopped at step 8: test pictures since step 6 are worse than at step 4" in out
    assert "note: test pictures since step 6" in out and "try the checkpoint of step 4" in out
    # the curve's word knows them, too
    run_folder = host.output_folder / "lora-eval" / "toy"
    assert read_samples(run_folder / "samples.csv") is not None
    seen: list[Any] = []
    from lora_eval.training import curve

    real = curve.diagnose
    monkeypatch.setattr(curve, "diagnose", lambda *a, **k: seen.append(a[3]) or real(*a, **k))
    run(capsys, "curve", run_folder / "history.csv")
    assert list(seen[0].step) == [0, 2, 4, 6, 8]


def test_a_job_of_the_tab_measures_by_the_settings_encoder(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = pytest.importorskip("lora_eval.encoders.registry")
    monkeypatch.setattr(embed, "load_encoder", lambda name, say=None: Planted(WORSENING))
    queue, host = JobQueue(), FakeHost(tmp_path / "host")
    state = queue.wait(submit.submit_train(queue, lambda: host, make_config(settings(data))), 120)
    assert state is not None and state.status == "finished"
    assert (state.result["stopped"], state.result["steps"]) == ("early", 8)


def test_a_config_that_cannot_run_loads_no_encoder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = pytest.importorskip("lora_eval.encoders.registry")
    monkeypatch.setattr(embed, "load_encoder", lambda *_, **__: pytest.fail("loaded"))
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(settings(data, sample_prompts=[])))
    code, _, err = run(capsys, "train", config)
    assert code == FAILED and "measure_samples needs test pictures" in one_line(err)


# -- check -----------------------------------------------------------------------------------------------


def test_check_judges_size_by_the_resolution_trained_at(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    _, out, _ = run(capsys, "check", data)
    assert sum("enlarged" in line and "512 x 512" in line for line in out.splitlines()) == 6
    _, out, _ = run(capsys, "check", data, "--resolution", "64")
    assert "enlarged" not in out
    _, out, _ = run(capsys, "check", data, "--resolution", "64x128")
    assert "enlarged" in out or "cut off" in out
    code, _, err = run(capsys, "check", data, "--resolution", "big")
    assert code == FAILED and "resolution is 'big'" in one_line(err)


def test_check_finds_validation_pictures_among_the_training_ones(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path
) -> None:
    held = tmp_path / "held"
    held.mkdir()
    with Image.open(data / "02.png") as picture:
        picture.save(held / "other name.png")
    code, out, _ = run(capsys, "check", data, "--resolution", "64", "--held-out", held)
    assert code == BAD and "looks like the training picture 02.png" in out


def test_check_judges_variety_when_an_encoder_is_named(
    capsys: pytest.CaptureFixture[str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = pytest.importorskip("lora_eval.encoders.registry")

    class Same:
        def embed_images(self, images: Any) -> np.ndarray:
            return np.tile(np.eye(1, 8), (len(list(images)), 1))

    monkeypatch.setattr(embed, "load_encoder", lambda name, say=None: Same())
    _, plain, _ = run(capsys, "check", data, "--resolution", "64")
    _, judged, _ = run(capsys, "check", data, "--resolution", "64", "--encoder", "auto")
    more = set(judged.splitlines()) - set(plain.splitlines())
    assert len(more) >= 1 and any("resemble each other by 1.00" in line for line in more)


def test_the_tab_checks_at_the_models_own_size_and_knows_the_class_word(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 8, trigger="zorp")
    lines = ["file_name,prompt"] + [f"{path.name},a zorp fox at noon {n}" for n, path in enumerate(data.glob("*.png"))]
    (data / "metadata.csv").write_text("\n".join(lines) + "\n")
    host = FakeHost(tmp_path)
    controller = Controller(lambda: host, JobQueue())

    def codes(resolution: Any = None, class_word: str = "") -> list[tuple[str, str]]:
        found = controller.check(str(data), None, "zorp", resolution, class_word).findings
        return [(one["code"], one["message"]) for one in found]

    assert not [code for code, _ in codes() if code == "enlarged"], "the fake model is made for 64 pixels"
    assert len([code for code, _ in codes(128) if code == "enlarged"]) == 8
    fused = "'fox' is in 100% of the captions"
    assert any(fused in message for _, message in codes())
    assert not any(fused in message for _, message in codes(class_word="fox"))
