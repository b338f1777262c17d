"""Training from folder to files: the same bits from the same seed, however the job is interrupted."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lora_eval.errors import ConfigError, DatasetError, HostError, Interrupted, LoraEvalError, RunError
from lora_eval.host.protocol import Job
from lora_eval.lora.files import load_lora
from lora_eval.training import keeping
from lora_eval.training.config import TrainConfig, load_config, make_config
from lora_eval.training.history import COLUMNS, read_rows
from lora_eval.training.loop import TrainResult, train
from lora_eval.training.loss import squared_error
from lora_eval.training.run import read_references
from tests.fakes import TOY, FakeBorrowed, FakeHost, drawing, hooks_on, write_dataset

STEPS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), 8, trigger="zorp")


def config(data: Path, **values: Any) -> TrainConfig:
    ends = {"train_data_dir": str(data), "max_steps": STEPS, "save_steps": 4, "validation_steps": 3}
    return make_config({**TOY, **ends, **values})


def tensors(result: TrainResult) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in load_file(result.lora).items()}


def everything(folder: Path) -> dict[str, str]:
    """Hash of what a run computed; times and event files differ by nature."""
    found = {"history": (folder / "history.csv").read_bytes()}
    for path in sorted(folder.glob("*.safetensors")):
        found[path.name] = b"".join(v.numpy().tobytes() for _, v in sorted(load_file(path).items()))
    return {name: hashlib.sha256(value).hexdigest() for name, value in found.items()}


def globals_now() -> tuple[object, ...]:
    numpy_state = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2], torch.get_rng_state().numpy().tobytes()


class StopAt(Job):
    """Interrupted when the step after ``step`` is about to begin."""

    def __init__(self, step: int) -> None:
        super().__init__("test", 1)
        self.step = step

    def advance(self, amount: int = 1, text: str | None = None) -> None:
        super().advance(amount, text)
        if self.done >= self.step:
            self.interrupt()


RICH: dict[str, Any] = {
    "dropout": 0.2,
    "ema": 0.9,
    "caption_dropout": 0.2,
    "shuffle_caption": True,
    "flip": True,
    "noise_offset": 0.1,
    "min_snr_gamma": 5,
    "gradient_accumulation": 2,
    "lr_scheduler": "cosine",
    "warmup_steps": 0.25,
    "optimizer": "adamw",
}


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(FakeHost(tmp_path_factory.mktemp("plain")), config(data, **RICH))


# -- the same bits ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_whatever_the_global_generators_hold(
    data: Path, tmp_path: Path, undisturbed: TrainResult
) -> None:
    torch.manual_seed(99)
    random.seed(99)
    again = train(FakeHost(tmp_path), config(data, **RICH))
    assert everything(again.folder) == everything(undisturbed.folder)


def test_another_seed_gives_another_lora(data: Path, tmp_path: Path, undisturbed: TrainResult) -> None:
    other = train(FakeHost(tmp_path), config(data, **RICH, seed=1))
    assert tensors(other) != tensors(undisturbed)


def test_training_leaves_the_global_generators_and_the_model_as_they_were(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    weights = {name: value.clone() for name, value in host.unet.state_dict().items()}
    flags = [(p.requires_grad, m.training) for m in host.unet.modules() for p in m.parameters()]
    before = globals_now()
    train(host, config(data, **RICH, sample_prompts=["{trigger} at noon"], sample_steps=5))
    assert globals_now() == before
    assert all(torch.equal(value, weights[name]) for name, value in host.unet.state_dict().items())
    assert [(p.requires_grad, m.training) for m in host.unet.modules() for p in m.parameters()] == flags
    assert hooks_on(host.unet) == 0
    assert all(p.grad is None for p in host.unet.parameters())


def test_looking_more_often_changes_nothing(data: Path, tmp_path: Path) -> None:
    """Validation and test pictures must not move weights, RNG or mode."""
    plain = train(FakeHost(tmp_path / "a"), config(data, **RICH, validation_steps=12))
    often = train(
        FakeHost(tmp_path / "b"),
        config(data, **RICH, validation_steps=1, sample_prompts=["a", "b"], sample_steps=1, save_steps=1),
    )
    assert tensors(plain) == tensors(often)


def test_caches_on_disk_give_the_same_bits(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    first = train(host, config(data))
    assert host.borrowed is not None
    encoded_at_first = host.borrowed.calls.count("encode_images")
    second = train(host, config(data))
    assert (encoded_at_first, host.borrowed.calls.count("encode_images")) == (9, 1), "the probe alone is encoded again"
    fresh = train(FakeHost(tmp_path / "other"), config(data, cache_latents_to_disk=False))
    assert tensors(first) == tensors(second) == tensors(fresh)
    assert second.folder.name == "toy-2", "file names are never used twice"


# -- interrupt and resume --------------------------------------------------------------------------


@given(stop=st.integers(1, STEPS - 1))
@settings(max_examples=5)
def test_a_run_interrupted_at_any_step_goes_on_as_if_undisturbed(
    data: Path, tmp_path_factory: pytest.TempPathFactory, undisturbed: TrainResult, stop: int
) -> None:
    host = FakeHost(tmp_path_factory.mktemp("stop"))
    stopped = train(host, config(data, **RICH), StopAt(stop))
    assert (stopped.stopped, stopped.steps) == ("interrupted", stop)
    assert stopped.lora.name == f"toy-{stop:06d}.safetensors"
    assert load_lora(stopped.lora).rank == 4
    assert [row["step"] for row in read_rows(stopped.history)] == list(range(stop + 1))
    assert hooks_on(host.unet) == 0

    resumed = train(host, config(data, **RICH), resume=True)
    assert (resumed.stopped, resumed.folder) == ("finished", stopped.folder)
    expected, found = everything(undisturbed.folder), everything(resumed.folder)
    extra = set(found) - set(expected)
    assert extra <= {f"toy-{stop:06d}.safetensors"}
    assert {name: found[name] for name in expected} == expected


def test_a_killed_run_resumes_from_its_last_checkpoint(data: Path, tmp_path: Path, undisturbed: TrainResult) -> None:
    class Kill(BaseException):
        pass

    host = FakeHost(tmp_path)

    def die(borrowed: FakeBorrowed) -> None:
        count = 0

        def denoise() -> None:
            nonlocal count
            count += torch.is_grad_enabled()
            if count > 2 * 10:
                raise Kill

        borrowed.before["denoise"] = denoise

    host.prepare = die
    with pytest.raises(Kill):
        train(host, config(data, **RICH))
    assert hooks_on(host.unet) == 0
    host.prepare = lambda borrowed: None
    # the kill left a row too many, and half a row
    with open(host.output_folder / "lora-eval" / "toy" / "history.csv", "a") as file:
        file.write("11,1,0.00")
    resumed = train(host, config(data, **RICH), resume=True)
    assert everything(resumed.folder) == everything(undisturbed.folder)


def test_an_interrupt_before_the_first_step_leaves_nothing_trained(data: Path, tmp_path: Path) -> None:
    job = Job("test", 1)
    job.interrupt()
    host = FakeHost(tmp_path)
    with pytest.raises(Interrupted):
        train(host, config(data), job)
    assert hooks_on(host.unet) == 0
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not (host.output_folder / "lora-eval" / "toy").exists(), "not even an empty folder"
    # and one that was stopped at the first test picture takes no name away
    host.prepare = lambda borrowed: borrowed.before.update(draw=_interrupt)
    with pytest.raises(Interrupted):
        train(host, config(data, sample_prompts=["a"]))
    host.prepare = lambda borrowed: None
    assert train(host, config(data, max_steps=1)).folder.name == "toy"


def _interrupt() -> None:
    raise Interrupted("stop")


def test_resume_refuses_another_training(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path / "host")
    own = write_dataset(tmp_path / "own", 8)
    train(host, config(own), StopAt(5))
    with pytest.raises(ConfigError, match=r"learning_rate is 0\.001, but the run to resume was started with 0\.005"):
        train(host, config(own, learning_rate=1e-3), resume=True)
    other = FakeHost(tmp_path / "host", seed=1)
    with pytest.raises(RunError, match="load that checkpoint to resume"):
        train(other, config(own), resume=True)
    (own / "metadata.csv").write_text((own / "metadata.csv").read_text().replace('00.png,"', '00.png,"new '))
    with pytest.raises(RunError, match="pictures or captions have changed"):
        train(host, config(own), resume=True)
    with pytest.raises(RunError, match="nothing to resume"):
        train(host, config(own, name="other"), resume=True)


def test_a_finished_run_can_be_made_longer(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    short = train(host, config(data, max_steps=6))
    content = short.lora.read_bytes()
    longer = train(host, config(data, max_steps=12), resume=True)
    # no file name is ever given to other content: both WebUIs remember LoRAs by name
    assert short.lora.read_bytes() == content and (host.lora_folder / "toy.safetensors").read_bytes() == content
    assert [(step, path.name) for step, path in longer.checkpoints] == [
        (4, "toy-000004.safetensors"),
        (6, "toy.safetensors"),
        (8, "toy-000008.safetensors"),
        (12, "toy-000012.safetensors"),
    ]
    assert longer.published == host.lora_folder / "toy-000012.safetensors"
    whole = train(FakeHost(tmp_path / "b"), config(data, max_steps=12))
    assert tensors(longer) == tensors(whole)


def test_a_broken_state_is_one_line(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    stopped = train(host, config(data), StopAt(5))
    state = stopped.folder / "state" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(RunError, match=r"state\.safetensors cannot be read"):
        train(host, config(data), resume=True)


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["encode_images", "encode_text", "denoise", "draw"])
@pytest.mark.parametrize("after", [0, 3])
def test_an_exception_at_any_stage_leaves_the_model_clean(data: Path, tmp_path: Path, stage: str, after: int) -> None:
    host = FakeHost(tmp_path)

    def arm(borrowed: FakeBorrowed) -> None:
        def fail() -> None:
            if borrowed.calls.count(stage) > after:
                raise ZeroDivisionError(stage)

        borrowed.before[stage] = fail

    host.prepare = arm
    before = globals_now()
    with pytest.raises(ZeroDivisionError):
        train(host, config(data, sample_prompts=["a"], sample_steps=1))
    assert hooks_on(host.unet) == 0
    assert globals_now() == before
    assert all(p.requires_grad for p in host.unet.parameters())


def test_a_failing_sampler_does_not_end_the_training(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)

    def no_pictures() -> None:
        raise HostError("no sampler")

    host.prepare = lambda borrowed: borrowed.before.update(draw=no_pictures)
    result = train(host, config(data, sample_prompts=["a"]))
    assert result.stopped == "finished"


def poisoned(after: int, value: float) -> Callable[[FakeBorrowed], None]:
    def arm(borrowed: FakeBorrowed) -> None:
        count = 0

        def poison(predicted: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += torch.is_grad_enabled()
            return predicted * value if count > after else predicted

        borrowed.poison = poison

    return arm


def test_nan_ends_the_run_with_the_last_good_checkpoint(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.prepare = poisoned(6, float("nan"))
    result = train(host, config(data))
    assert result.stopped == "diverged" and "loss is nan at step 7" in result.message
    assert result.lora == result.folder / "toy-000004.safetensors"
    assert all(torch.isfinite(value).all() for value in load_file(result.lora).values())
    last = read_rows(result.history)[-1]
    assert last["step"] == 7 and math.isnan(last["loss"])  # type: ignore[arg-type]
    from lora_eval.training.curve import diagnose
    from lora_eval.training.logs import read_history

    history = read_history(result.history)
    assert diagnose(history.step, history.loss, history.val_loss, val_step=history.val_step).state == "diverged"
    assert not (result.folder / "toy.safetensors").exists()
    assert not (host.lora_folder / "toy.safetensors").exists()


def test_nan_before_any_checkpoint_is_one_line(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.prepare = poisoned(1, float("nan"))
    with pytest.raises(RunError, match=r"diverged: the loss is nan at step 2.*lower learning_rate"):
        train(host, config(data))
    assert hooks_on(host.unet) == 0


def test_a_loss_far_above_the_start_ends_the_run(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.prepare = poisoned(5, 30.0)
    result = train(host, config(data, max_steps=60))
    assert result.stopped == "diverged" and "since step 6" in result.message


def test_nan_in_the_base_model_says_so_before_training(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.prepare = lambda borrowed: setattr(borrowed, "poison", lambda out: out * float("nan"))
    with pytest.raises(RunError, match="NaN before the first step"):
        train(host, config(data))


def test_a_prediction_without_gradient_is_an_error_not_a_lora_that_learns_nothing(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.prepare = lambda borrowed: setattr(borrowed, "poison", lambda out: out.detach())
    with pytest.raises(HostError, match="does not depend on the LoRA"):
        train(host, config(data))


@pytest.mark.parametrize(
    ("values", "spoil", "error", "message"),
    [
        ({"train_data_dir": "/nowhere"}, None, DatasetError, "does not exist"),
        ({}, lambda d: (d / "03.png").unlink(), DatasetError, r"row \d+: '03.png' is not in"),
        ({}, lambda d: (d / "03.png").write_bytes(b""), DatasetError, "empty"),
        ({}, lambda d: (d / "metadata.csv").unlink(), DatasetError, "no picture in .* has a caption"),
        ({"base_model": "models/other.safetensors"}, None, HostError, "fake is loaded"),
        ({"init_lora": "/nowhere.safetensors"}, None, LoraEvalError, "nowhere"),
        ({"blocks": ["out"]}, None, ConfigError, "no layer"),
        ({"optimizer": "prodigy"}, None, ConfigError, "prodigyopt, which is not installed; use adamw"),
        ({"output_dir": "/proc/nowhere"}, None, RunError, "cannot write"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(
    tmp_path: Path, values: dict[str, Any], spoil: Callable[[Path], object] | None, error: type, message: str
) -> None:
    data = write_dataset(tmp_path / "data", 6)
    if spoil:
        spoil(data)
    host = FakeHost(tmp_path / "host")
    with pytest.raises(error, match=message) as caught:
        train(host, config(data, **values))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("toy*.safetensors"))
    assert hooks_on(host.unet) == 0


def test_a_full_disk_keeps_earlier_checkpoints(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    real, calls = keeping.save_lora, []

    def save(path: Path, *rest: Any) -> Any:
        calls.append(path)
        if len(calls) == 2:
            from lora_eval.files import write_error

            raise write_error(path, OSError(errno.ENOSPC, "no space"))
        return real(path, *rest)

    monkeypatch.setattr(keeping, "save_lora", save)
    host = FakeHost(tmp_path)
    with pytest.raises(RunError, match="the disk is full"):
        train(host, config(data))
    assert load_lora(calls[0]).rank == 4
    assert hooks_on(host.unet) == 0
    monkeypatch.setattr(keeping, "save_lora", real)
    assert train(host, config(data), resume=True).stopped == "finished"


def test_no_room_is_said_before_the_first_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_eval.training.run.shutil.disk_usage", lambda path: type("U", (), {"free": 1_000_000})())
    host = FakeHost(tmp_path)
    with pytest.raises(RunError, match=r"1 MB free, the run needs about \d+ MB"):
        train(host, config(data))
    assert host.borrowed is None, "the model is not touched"


# -- what comes out --------------------------------------------------------------------------------


def test_the_loss_falls_on_pictures_it_can_learn(data: Path, tmp_path: Path) -> None:
    result = train(FakeHost(tmp_path), config(data, max_steps=60, save_steps=0, validation_steps=60))
    rows = read_rows(result.history)
    assert rows[-1]["train_loss_fixed"] < 0.8 * rows[0]["train_loss_fixed"]  # type: ignore[operator]
    assert rows[-1]["loss_smooth"] < 0.9  # type: ignore[operator]


@pytest.mark.parametrize(("family", "prediction"), [("sd1", "v_prediction"), ("sd2", "epsilon"), ("sdxl", "epsilon")])
def test_every_family_and_prediction_trains(data: Path, tmp_path: Path, family: str, prediction: str) -> None:
    layout_is_ldm = family == "sdxl"
    host = FakeHost(tmp_path, family, prediction)
    result = train(host, config(data, max_steps=40, save_steps=0))
    rows = read_rows(result.history)
    assert rows[-1]["train_loss_fixed"] < 0.9 * rows[0]["train_loss_fixed"]  # type: ignore[operator]
    first = next(iter(load_file(result.lora)))
    assert first.startswith("lora_unet_input_blocks_" if layout_is_ldm else "lora_unet_down_blocks_")


def test_the_run_folder(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    result = train(host, config(data, sample_prompts=["{trigger} at noon"], sample_steps=6, trigger="zorp"))
    folder = host.output_folder / "lora-eval" / "toy"
    assert result.folder == folder
    assert [(step, path.name) for step, path in result.checkpoints] == [
        (4, "toy-000004.safetensors"),
        (8, "toy-000008.safetensors"),
        (12, "toy.safetensors"),
    ]
    assert all(path.parent == folder and path.is_file() for _, path in result.checkpoints)
    assert load_config(folder / "config.yaml") == config(
        data, sample_prompts=["{trigger} at noon"], sample_steps=6, trigger="zorp"
    )
    assert sorted(p.name for p in (folder / "samples").iterdir()) == [f"toy-{s:06d}-00.png" for s in (0, 6, 12)]
    assert Image.open(folder / "samples" / "toy-000006-00.png").info["parameters"].startswith("zorp at noon")
    assert result.published == host.lora_folder / "toy.safetensors"
    assert result.published.read_bytes() == result.lora.read_bytes()
    assert host.refreshed == 1


def test_history_has_the_contract_s_columns_and_validation_from_step_0(undisturbed: TrainResult) -> None:
    text = undisturbed.history.read_text()
    assert text.splitlines()[0].split(",")[:5] == ["step", "epoch", "lr", "loss", "val_loss"]
    rows = read_rows(undisturbed.history)
    assert tuple(rows[0]) == COLUMNS
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert [row["step"] for row in rows if row["val_loss"] is not None] == [0, 3, 6, 9, 12]
    assert rows[0]["loss"] is None and rows[0]["val_ratio"] == 1.0
    assert all(row["loss"] is not None and row["grad_norm"] is not None for row in rows[1:])


def test_learning_rates_in_the_history_follow_the_schedule(undisturbed: TrainResult) -> None:
    from lora_eval.training.schedule import lr_factor

    rates = [row["lr"] for row in read_rows(undisturbed.history)[1:]]
    assert rates == [5e-3 * lr_factor(i, STEPS, 3, "cosine") for i in range(STEPS)]


def test_held_out_pictures_are_never_trained_on(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    result = train(host, config(data))
    found = read_references(result.lora)
    assert found is not None
    training, held = ({row["path"] for row in rows} for rows in found)
    assert len(held) == 2 and not training & held
    assert training | held == {str(path.resolve()) for path in data.glob("*.png")}
    # without them the same pictures train to the same bits
    alone = tmp_path / "alone"
    alone.mkdir()
    for path in training:
        (alone / Path(path).name).write_bytes(Path(path).read_bytes())
    lines = (data / "metadata.csv").read_text().splitlines()
    kept = [line for line in lines if line.split(",")[0] in {Path(path).name for path in training}]
    (alone / "metadata.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    other = train(FakeHost(tmp_path / "b"), config(alone, validation_fraction=0))
    assert tensors(other) == tensors(result)


@pytest.mark.parametrize("name", ["toy", "toy-20260131"])
def test_a_published_lora_still_finds_its_references(data: Path, tmp_path: Path, name: str) -> None:
    host = FakeHost(tmp_path)
    result = train(host, config(data, name=name))
    assert result.published is not None
    assert read_references(result.published) is None
    assert read_references(result.published, [host.output_folder]) == read_references(result.lora)
    assert read_references(result.checkpoints[0][1], []) == read_references(result.lora)


def test_metadata_is_complete_and_holds_no_path(data: Path, tmp_path: Path) -> None:
    result = train(FakeHost(tmp_path), config(data, trigger="zorp", class_word="fox", kind="character"))
    for step, path in result.checkpoints:
        with safe_open(str(path), "pt") as file:
            about = file.metadata()
        assert about["ss_output_name"] == path.stem, "the alias must differ for each checkpoint"
        assert about["ss_steps"] == str(step) and about["ss_network_dim"] == "4"
        assert about["modelspec.architecture"] == "stable-diffusion-v1/lora"
        assert (about["lora_eval_trigger"], about["lora_eval_class_word"], about["lora_eval_kind"]) == (
            "zorp",
            "fox",
            "character",
        )
        assert about["lora_eval_run"] == "toy" and len(about["sshs_model_hash"]) == 64
        assert '"zorp' in about["ss_tag_frequency"]
        assert not [key for key, value in about.items() if str(tmp_path) in value or str(data.parent) in value]


def test_the_article_s_output_folder_holds_lora_and_logs_itself(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    values = {"name": None, "output_dir": str(tmp_path / "output" / "my_style_lora")}
    first = train(host, config(data, **values))
    assert first.lora == tmp_path / "output/my_style_lora/my_style_lora.safetensors"
    second = train(host, config(data, **values))
    assert second.lora == tmp_path / "output/my_style_lora-2/my_style_lora-2.safetensors"
    assert tensors(first) == tensors(second)


def test_repeats_and_epochs_make_the_steps(tmp_path: Path) -> None:
    for folder, count in (("3_zorp", 2), ("1_owl", 4)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for i in range(count):
            drawing(i + 10 * count).save(tmp_path / "data" / folder / f"{i}.png")
    result = train(
        FakeHost(tmp_path), config(tmp_path / "data", max_steps=None, epochs=4, batch_size=4, validation_fraction=0)
    )
    assert result.total == 4 * 3  # ceil((2 * 3 + 4) / 4) = 3 batches an epoch
    assert read_rows(result.history)[-1]["epoch"] == 4


def test_early_stop_keeps_everything_and_says_why(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    result = train(host, config(data, max_steps=200, validation_steps=1, early_stop=2, learning_rate=0.5))
    assert result.stopped in ("early", "diverged")
    assert result.stopped == "early", result.message
    assert result.best is not None and result.steps == result.best[0] + 2
    assert f"not improved since step {result.best[0]}" in result.message


def test_early_stop_without_held_out_pictures_is_said(data: Path, tmp_path: Path) -> None:
    result = train(FakeHost(tmp_path), config(data, validation_fraction=0, early_stop=1))
    assert result.stopped == "finished"
    assert any("early_stop needs held-out pictures" in note for note in result.notes)


def test_long_captions_are_filled_up_with_the_empty_prompt(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 6)
    text = (data / "metadata.csv").read_text().splitlines()
    text[2] = '01.png,"' + " ".join(f"word{i}" for i in range(20)) + '"'
    (data / "metadata.csv").write_text("\n".join(text) + "\n")
    shapes = []
    host = FakeHost(tmp_path / "h")

    def watch(borrowed: FakeBorrowed) -> None:
        real = borrowed.denoise

        def denoise(noisy: torch.Tensor, timesteps: torch.Tensor, cond: Any) -> torch.Tensor:
            shapes.append(cond.context.shape[1])
            long = cond.context.shape[1] == 24
            if long:
                empty = borrowed.encode_text([""], 64, 64).context
                padded = [row[8:16].equal(empty[0]) and row[16:].equal(empty[0]) for row in cond.context]
                assert padded.count(False) <= 3
            return real(noisy, timesteps, cond)

        borrowed.denoise = watch_denoise = denoise  # type: ignore[method-assign]
        assert watch_denoise

    host.prepare = watch
    train(host, config(data, validation_fraction=0))
    assert set(shapes) == {8, 24}


def test_gradient_checkpointing_is_asked_of_the_host(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    train(host, config(data, gradient_checkpointing=True))
    assert host.borrowed is not None and host.borrowed.checkpointing


@pytest.mark.parametrize("same", [True, False])
def test_going_on_from_a_lora(data: Path, tmp_path: Path, same: bool) -> None:
    host = FakeHost(tmp_path)
    first = train(host, config(data, max_steps=30, save_steps=0))
    rank = 4 if same else 2
    second = train(
        host, config(data, name="more", init_lora=str(first.lora), lora_rank=rank, max_steps=1, learning_rate=1e-9)
    )
    end, start = read_rows(first.history)[-1], read_rows(second.history)[0]
    base = read_rows(first.history)[0]
    assert load_lora(second.lora).rank == rank
    if same:
        assert start["val_loss"] == pytest.approx(end["val_loss"], rel=1e-5)
    else:
        # the best approximation of lower rank keeps most of what was gained
        gained = base["val_loss"] - end["val_loss"]  # type: ignore[operator]
        assert base["val_loss"] - start["val_loss"] > 0.5 * gained  # type: ignore[operator]


# -- masks, regularisation, memory -----------------------------------------------------------------


def test_the_loss_of_masked_cells_does_not_count() -> None:
    a, b, target = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1
    b[..., :4] = a[..., :4]
    assert torch.equal(squared_error(a, target, mask), squared_error(b, target, mask))
    assert torch.allclose(squared_error(a, target, mask), squared_error(a[..., :4], target[..., :4]))


def test_masks_reach_the_step(tmp_path: Path) -> None:
    """A white mask trains to the bits of no mask up to rounding, a half one to others; a black one is refused."""
    data = write_dataset(tmp_path / "data", 5)
    values: dict[str, Any] = {"validation_fraction": 0, "max_steps": 2, "flip": True}
    plain = load_file(train(FakeHost(tmp_path / "plain"), config(data, **values)).lora)
    found = {}
    for name, box in (("white", (0, 0, 64, 64)), ("half", (0, 0, 32, 64)), ("black", (0, 0, 0, 0))):
        for number in range(5):
            mask = Image.new("L", (64, 64), 0)
            mask.paste(255, box)
            mask.save(data / f"{number:02d}-masklabel.png")
        host = FakeHost(tmp_path / name)
        if name == "black":
            with pytest.raises(DatasetError, match=r"00-masklabel\.png leaves nothing to learn"):
                train(host, config(data, **values))
        else:
            result = train(host, config(data, **values))
            assert read_references(result.lora) is not None
            found[name] = load_file(result.lora)
    assert all(torch.allclose(found["white"][key], value, atol=1e-5) for key, value in plain.items())
    assert any(not torch.allclose(found["half"][key], value, atol=1e-4) for key, value in plain.items())


def test_regularisation_pictures_are_shown_as_often_as_the_others(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 5, trigger="zorp")
    reg = tmp_path / "reg"
    reg.mkdir()
    for number in range(3):
        drawing(100 + number).save(reg / f"{number}.png")
    values: dict[str, Any] = {"validation_fraction": 0, "max_steps": None, "epochs": 2, "batch_size": 5}
    values |= {"reg_data_dir": str(reg), "class_word": "fox"}
    host = FakeHost(tmp_path / "host")
    result = train(host, config(data, **values))
    assert result.total == 2 * 2
    assert any("3 regularisation picture(s), 5 shown an epoch" in note for note in result.notes)
    references = read_references(result.lora)
    assert references is not None and len(references[0]) == 5, "they are no references of the concept"
    # at weight 0 they change nothing but the order
    quiet = train(FakeHost(tmp_path / "b"), config(data, **values, prior_loss_weight=0))
    loud = train(FakeHost(tmp_path / "c"), config(data, **values, prior_loss_weight=1))
    assert tensors(loud) == tensors(result) != tensors(quiet)


def limited(pictures: int, checkpointing: bool) -> Callable[[FakeBorrowed], None]:
    """A device that holds so many pictures at a time, and only with checkpointing where that is asked for."""

    def arm(borrowed: FakeBorrowed) -> None:
        real = borrowed.denoise

        def denoise(noisy: torch.Tensor, timesteps: torch.Tensor, cond: Any) -> torch.Tensor:
            if torch.is_grad_enabled() and (len(noisy) > pictures or (checkpointing and not borrowed.checkpointing)):
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return real(noisy, timesteps, cond)

        borrowed.denoise = denoise  # type: ignore[method-assign]

    return arm


def test_out_of_memory_goes_on_with_the_next_smaller_settings(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.prepare = limited(1, True)
    result = train(host, config(data, batch_size=4, save_steps=0))
    assert result.stopped == "finished" and hooks_on(host.unet) == 0
    used = load_config(result.folder / "config.yaml")
    assert (used.batch_size, used.gradient_accumulation, used.gradient_checkpointing) == (1, 4, True)
    assert [note for note in result.notes if "out of memory" in note] == [
        "out of memory with batch_size 4: went on with gradient_checkpointing: true",
        "out of memory with batch_size 4: went on with batch_size: 2, gradient_accumulation: 2",
        "out of memory with batch_size 2: went on with batch_size: 1, gradient_accumulation: 4",
    ]


def test_a_run_with_smaller_settings_resumes_from_the_config_it_was_given(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.prepare = limited(2, False)
    stopped = train(host, config(data, batch_size=4), StopAt(5))
    assert stopped.stopped == "interrupted" and stopped.notes
    resumed = train(host, config(data, batch_size=4), resume=True)
    whole = train(
        FakeHost(tmp_path / "b"), config(data, batch_size=2, gradient_accumulation=2, gradient_checkpointing=True)
    )
    assert resumed.stopped == "finished" and tensors(resumed) == tensors(whole)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_as_well(data: Path, tmp_path: Path, precision: str) -> None:
    host = FakeHost(tmp_path)
    try:
        result = train(host, config(data, mixed_precision=precision, max_steps=30, save_steps=0))
    except ConfigError as error:
        assert precision == "fp16" and "cannot compute on cpu; set it to auto" in str(error)
        pytest.skip("this torch has no fp16 on the CPU")
    rows = read_rows(result.history)
    assert rows[-1]["train_loss_fixed"] < 0.9 * rows[0]["train_loss_fixed"]  # type: ignore[operator]
    assert all(value.dtype == torch.float32 for value in load_file(result.lora).values())


def test_full_precision_cannot_be_had_of_a_host_in_half(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.prepare = lambda borrowed: setattr(borrowed, "compute_dtype", torch.float16)
    with pytest.raises(ConfigError, match=r"mixed_precision is no, but the host computes in torch\.float16"):
        train(host, config(data, mixed_precision="no"))


def test_out_of_memory_can_be_an_error_and_is_one_at_the_end(data: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.prepare = limited(2, False)
    with pytest.raises(HostError, match="out of memory; set gradient_checkpointing: true"):
        train(host, config(data, on_out_of_memory="stop"))
    host.prepare = limited(0, False)
    with pytest.raises(HostError, match="smallest settings; set a lower resolution"):
        train(host, config(data))
    assert hooks_on(host.unet) == 0


def test_other_runtime_errors_are_not_taken_for_memory(data: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    host = FakeHost(tmp_path)
    host.prepare = lambda borrowed: borrowed.before.update(denoise=fail)
    with pytest.raises(RuntimeError, match="mat1"):
        train(host, config(data))
