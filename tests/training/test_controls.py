"""Every key of the config changes what it names, and no key is dead."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from lora_eval.training.config import TrainConfig, make_config
from lora_eval.training.loop import TrainResult, train
from tests.fakes import TOY, FakeHost, drawing, write_dataset

BASE: dict[str, Any] = {**TOY, "epochs": 2, "trigger": "zorp"}
# these change the numbers of the LoRA
NUMBERS: dict[str, Any] = {
    "lora_alpha": 1,
    "preset": "transformer",
    "blocks": ["mid"],
    "dropout": 0.5,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "epochs": 3,
    "max_steps": 1,
    "resolution": 48,
    "seed": 3,
    "learning_rate": 1e-3,
    "weight_decay": 1.0,
    "betas": [0.5, 0.9],
    "lr_scheduler": "cosine",
    "warmup_steps": 3,
    "max_grad_norm": 0.01,
    "ema": 0.9,
    "min_snr_gamma": 1,
    "noise_offset": 0.5,
    "mixed_precision": "bf16",
    "caption_dropout": 1,
    "tag_dropout": 1,
    "shuffle_caption": True,
    "flip": True,
    "random_crop": True,
    "validation_fraction": 0,
    "rank_stabilised": True,
    "hard_negative_weight": 1,
}
# these act together with another
TOGETHER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lr_cycles": ({"lr_scheduler": "cosine_with_restarts", "epochs": 4}, {"lr_cycles": 3}),
    "keep_tokens": ({"tag_dropout": 1}, {"keep_tokens": 1}),
    "conv_rank": ({"preset": "full"}, {"conv_rank": 2}),
    "no_upscale": ({"resolution": 96}, {"no_upscale": True}),
    "hard_negative_start": ({"hard_negative_weight": 1}, {"hard_negative_start": 0}),
    "hard_negative_prompts": ({"hard_negative_weight": 1}, {"hard_negative_prompts": ["a tree"]}),
}
# these have tests of their own, named here
ELSEWHERE = {
    "train_data_dir": "test_folder",
    "metadata_path": "test_folder",
    "caption_extension": "test_folder_kinds",
    "base_model": "test_loop: bad input",
    "output_dir": "test_loop: the article's output folder",
    "name": "test_config: names",
    "init_lora": "test_loop: going on from a LoRA",
    "reg_data_dir": "test_loop: regularisation pictures",
    "prior_loss_weight": "test_loop: regularisation pictures",
    "optimizer": "test_loop: bad input (others are optional packages)",
    "gradient_checkpointing": "test_loop: asked of the host; test_standalone: same LoRA",
    "on_out_of_memory": "test_loop: out of memory",
    "early_stop": "test_loop: early stop",
    "validation_steps": "test_loop: history",
    "cache_latents_to_disk": "test_loop: caches",
    "samples_per_prompt": "test_watch",
    "measure_samples": "test_watch",
    "sample_early_stop": "test_watch",
}
WRITTEN = {
    "save_steps",
    "save_epochs",
    "save_dtype",
    "publish",
    "sample_prompts",
    "sample_steps",
    "sample_seed",
    "sample_negative",
}
WRITTEN |= {"sampler", "sampler_steps", "sample_cfg", "class_word", "kind", "trigger", "lora_rank"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_dataset(tmp_path_factory.mktemp("data"), 8)
    lines = [f'{i:02d}.png,"zorp, tag{i}, red, number {i}, blue"' for i in range(8)]
    for i in range(8):
        drawing(i, (80, 64)).save(root / f"{i:02d}.png")
    (root / "metadata.csv").write_text("file_name,prompt\n" + "\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return numbers(run(tmp_path_factory.mktemp("base"), data))


def run(folder: Path, data: Path, **values: Any) -> TrainResult:
    return train(FakeHost(folder), make_config({**BASE, "train_data_dir": str(data), **values}))


def numbers(result: TrainResult) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in load_file(result.lora).items()}


@pytest.mark.parametrize("key", NUMBERS)
def test_the_key_changes_the_lora(data: Path, tmp_path: Path, base: dict[str, bytes], key: str) -> None:
    assert numbers(run(tmp_path, data, **{key: NUMBERS[key]})) != base


@pytest.mark.parametrize("key", TOGETHER)
def test_the_key_changes_the_lora_beside_another(data: Path, tmp_path: Path, key: str) -> None:
    other, own = TOGETHER[key]
    without = numbers(run(tmp_path / "without", data, **other))
    assert numbers(run(tmp_path / "with", data, **other, **own)) != without


@pytest.fixture(scope="module")
def written(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training with every setting of what is written; the pictures that were drawn for it."""
    folder = tmp_path_factory.mktemp("written")
    drawn: list[tuple[Any, Any]] = []
    host = FakeHost(folder)

    def watch(borrowed: Any) -> None:
        real = borrowed.draw

        def draw(requests: Any, sampling: Any) -> Any:
            drawn.append((list(requests), sampling))
            return real(requests, sampling)

        borrowed.draw = draw

    host.prepare = watch
    values = {
        "train_data_dir": str(data), "lora_rank": 2, "save_steps": 1, "save_dtype": "bf16", "publish": False,
        "sample_prompts": ["{trigger} and {class_word}"], "sample_steps": 2, "sample_seed": 7,
        "sample_negative": "blurry", "sampler": "DDIM", "sampler_steps": 9, "sample_cfg": 3.5, "class_word": "fox",
        "kind": "object", "max_steps": 3, "output_dir": str(folder / "out"),
    }  # fmt: skip
    return host, train(host, make_config({**BASE, **values})), drawn


def test_a_checkpoint_is_written_as_often_as_asked_and_published_only_if_asked(written: Any) -> None:
    host, result, _ = written
    assert [step for step, _ in result.checkpoints] == [1, 2, 3]
    assert result.published is None and not host.lora_folder.exists()


def test_test_pictures_are_drawn_as_asked(written: Any) -> None:
    _, _, drawn = written
    requests, sampling = drawn[0]
    assert len(drawn) == 3, "before, after two steps, at the end"
    assert [(r.prompt, r.negative_prompt, r.seed) for r in requests] == [("zorp and fox", "blurry", 7)]
    assert (sampling.sampler, sampling.steps, sampling.cfg_scale) == ("DDIM", 9, 3.5)


def test_the_file_has_the_rank_the_type_and_what_it_is_about(written: Any) -> None:
    _, result, _ = written
    with safe_open(str(result.lora), "pt") as file:
        about = file.metadata()
        down = next(key for key in file.keys() if key.endswith("lora_down.weight"))  # noqa: SIM118
        tensor = file.get_tensor(down)
    said = [about[f"lora_eval_{name}"] for name in ("kind", "class_word", "trigger")]
    assert said == ["object", "fox", "zorp"]
    assert str(tensor.dtype) == "torch.bfloat16" and tensor.shape[0] == 2


def test_no_key_is_forgotten() -> None:
    known = {*NUMBERS, *TOGETHER, *ELSEWHERE, *WRITTEN}
    assert known == {setting.name for setting in fields(TrainConfig)}
