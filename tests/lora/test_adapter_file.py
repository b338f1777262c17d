"""A LoRA is read as its maker meant it, and drawn as the WebUI draws it: odd keys are named, another family refused.

Threads: huggingface/diffusers#6087, #14409, huggingface/peft#1329 and Comfy-Org/ComfyUI#12191 (peft's alpha lost with
the name), Comfy-Org/ComfyUI#3060 and huggingface/diffusers#7366 (LyCORIS and DoRA), AUTOMATIC1111#13568 and
Nerogar/OneTrainer#278 (bundle_emb), AUTOMATIC1111#12503 (w_norm), lllyasviel/stable-diffusion-webui-forge#838
("checking for unmatched keys is not a versioning system").
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lora_eval.errors import LoraFileError
from lora_eval.lora.adapter_file import load_adapter
from lora_eval.lora.adapter_match import LoraFit, match_adapter

RANK, WIDTH = 4, 8
NAMES = [f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_{part}" for part in ("q", "k", "v")]
PATHS = [f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_{part}" for part in ("q", "k", "v")]


def pair(name: str, width: int = WIDTH, alpha: float | None = 2.0) -> dict[str, torch.Tensor]:
    made = {f"{name}.lora_down.weight": torch.randn(RANK, width), f"{name}.lora_up.weight": torch.randn(width, RANK)}
    return made if alpha is None else {**made, f"{name}.alpha": torch.tensor(alpha)}


def plain() -> dict[str, torch.Tensor]:
    return {key: tensor for name in NAMES for key, tensor in pair(name).items()}


def saved(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(path), metadata=metadata or None)
    return path


def modules() -> dict[str, nn.Module]:
    return {name: nn.Linear(WIDTH, WIDTH) for name in NAMES}


ODD = {
    "an embedding": ({"bundle_emb.fox.string_to_param.*": torch.ones(2, 4)}, "1 keys are not read .an embedding"),
    "a marker": ({"v_pred": torch.zeros(1)}, "1 keys are not read .no layer's key.: v_pred"),
    "a step": ({"training_step": torch.zeros(1)}, "training_step"),
    "a scalar": ({f"{NAMES[0]}.scalar": torch.ones(1)}, "passed over beside LoRA.*scalar"),
    "a layer of no model": (pair("lora_unet_foo_bar"), "1 of 4 layers are not the model's .*lora_unet_foo_bar"),
    "a layer too many": (pair("lora_te_text_model_encoder_layers_40_mlp_fc1"), "layers_40_mlp_fc1"),
    "another shape": (pair(NAMES[2], WIDTH + 1), "1 of 3 layers do not fit the model .*expected"),
    "alpha alone": ({"lora_unet_x.alpha": torch.tensor(1.0)}, "tensors of no known format.: lora_unet_x.alpha"),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_few_odd_keys_beside_good_ones_are_named_and_the_rest_is_drawn(tmp_path: Path, kind: str) -> None:
    odd, says = ODD[kind]
    file = load_adapter(saved(tmp_path / "a.safetensors", {**plain(), **odd}))
    fit = match_adapter(file, modules(), "sd1").fit
    assert fit.layers == (2 if kind == "another shape" else 3)
    assert len(fit.notes) == 1
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(fit.notes[0])


def test_a_file_that_takes_whole_has_no_notes(tmp_path: Path) -> None:
    file = load_adapter(saved(tmp_path / "a.safetensors", plain()))
    assert match_adapter(file, modules(), "sd1").fit == LoraFit(3)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_file_of_which_less_than_half_fits_is_of_another_family(tmp_path: Path, extra: int) -> None:
    strange = {key: tensor for at in range(3 + extra) for key, tensor in pair(f"lora_unet_foo_{at}").items()}
    file = load_adapter(saved(tmp_path / "a.safetensors", {**plain(), **strange}))
    if not extra:
        assert match_adapter(file, modules(), "sd1").fit.layers == 3
        return
    with pytest.raises(LoraFileError, match=r"4 of 7 layers match none of the model's .*another model family than sd1"):
        match_adapter(file, modules(), "sd1")


def test_a_cross_attention_of_another_width_is_another_family(tmp_path: Path) -> None:
    cross = NAMES[0].replace("attn1_to_q", "attn2_to_k")
    file = load_adapter(saved(tmp_path / "a.safetensors", {**plain(), **pair(cross, WIDTH + 4)}))
    with pytest.raises(LoraFileError, match=r"do not fit the model .*another model family"):
        match_adapter(file, {**modules(), cross: nn.Linear(WIDTH, WIDTH)}, "sd1")


def test_alpha_0_is_said(tmp_path: Path) -> None:
    file = load_adapter(saved(tmp_path / "a.safetensors", {**plain(), f"{NAMES[1]}.alpha": torch.tensor(0.0)}))
    assert f"alpha is 0 in 1 of 3 layers ({NAMES[1]}): they are drawn as nothing" in file.notes


class TestPeft:
    """The scale of a peft file stands in ``adapter_config.json``, whatever the file is called."""

    def tensors(self) -> dict[str, torch.Tensor]:
        made = {}
        for path in PATHS:
            made[f"base_model.model.{path}.lora_A.weight"] = torch.randn(RANK, WIDTH)
            made[f"base_model.model.{path}.lora_B.weight"] = torch.randn(WIDTH, RANK)
        return made

    @pytest.mark.parametrize("name", ["adapter_model", "fox"])
    def test_config_beside_it(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 8}))
        file = load_adapter(saved(tmp_path / f"{name}.safetensors", self.tensors()))
        assert {float(parts["alpha"]) for parts in file.layers.values()} == {8} and not file.notes
        assert set(file.layers) == set(NAMES)

    def test_rank_stabilised_and_patterns(self, tmp_path: Path) -> None:
        config = {"r": RANK, "lora_alpha": 8, "use_rslora": True, "alpha_pattern": {"to_k": 2}}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        file = load_adapter(saved(tmp_path / "fox.safetensors", self.tensors()))
        assert [float(file.layers[name]["alpha"]) for name in NAMES] == [16, 4, 16]

    def test_a_config_of_another_adapter_is_not_taken(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK * 2, "lora_alpha": 8}))
        file = load_adapter(saved(tmp_path / "fox.safetensors", self.tensors()))
        assert not any("alpha" in parts for parts in file.layers.values())
        assert file.notes[0] == "adapter_config.json beside it is of another rank than 4: not read"

    def test_without_any_it_is_said(self, tmp_path: Path) -> None:
        file = load_adapter(saved(tmp_path / "fox.safetensors", self.tensors()))
        assert file.notes == ("its alpha is not known: drawn at scale 1, as diffusers does",)

    def test_dora_of_peft(self, tmp_path: Path) -> None:
        tensors = self.tensors()
        tensors[f"base_model.model.{PATHS[0]}.lora_magnitude_vector.weight"] = torch.ones(WIDTH)
        file = load_adapter(saved(tmp_path / "fox.safetensors", tensors))
        assert "dora_scale" in file.layers[NAMES[0]] and not file.is_plain


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"lora_unet_x.lora_down.weight": torch.ones(2, 2)}, "none of its 1 keys is of a layer that is known"),
        ({"odd": torch.ones(1)}, "not a LoRA"),
        ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": torch.ones(2, 2)}, "made for Flux"),
        ({**plain(), f"{NAMES[0]}.lora_up.weight": torch.full((WIDTH, RANK), float("nan"))}, "NaN"),
    ],
)
def test_what_is_no_lora_is_refused_by_its_reason(tmp_path: Path, tensors: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(LoraFileError, match=says):
        load_adapter(saved(tmp_path / "a.safetensors", tensors))


class TestOnTheStandaloneHost:
    """Layers of other formats are merged while a batch is drawn, and the weights are bit for bit as before."""

    @pytest.fixture(scope="class")
    def host(self) -> Any:
        pytest.importorskip("diffusers")
        from lora_eval.host.standalone import StandaloneHost, default_model

        return StandaloneHost(default_model())

    def first_layer(self, host: Any) -> tuple[str, nn.Linear]:
        path, module = next((p, m) for p, m in host._load().unet.named_modules() if p.endswith("attn1.to_q"))
        return "lora_unet_" + path.replace(".", "_"), module

    @pytest.mark.parametrize("kind", ["loha", "lokr", "full", "ia3"])
    def test_formats_are_drawn_and_taken_off(self, host: Any, tmp_path: Path, kind: str) -> None:
        from lora_eval.host.standalone.lora import LoadedLora

        name, module = self.first_layer(host)
        out, inside = module.weight.shape
        parts = {
            "loha": {f"hada_w{n}_{s}": torch.randn(*size) for n in (1, 2) for s, size in
                     (("a", (out, 2)), ("b", (2, inside)))},
            "lokr": {"lokr_w1": torch.randn(4, 4), "lokr_w2": torch.randn(out // 4, inside // 4)},
            "full": {"diff": torch.randn(out, inside)},
            "ia3": {"weight": torch.randn(out), "on_input": torch.tensor(False)},
        }[kind]  # fmt: skip
        path = saved(tmp_path / f"{kind}.safetensors", {f"{name}.{part}": tensor for part, tensor in parts.items()})
        before = module.weight.detach().clone()
        lora = LoadedLora(host._load(), path)
        assert lora.fit.layers == 1
        changes = []
        for weight in (0.5, 1.0):
            with lora.applied(weight):
                changes.append(module.weight.detach() - before)
            assert torch.equal(module.weight, before)
        assert changes[0].abs().max() > 0.01
        assert torch.allclose(changes[0] * 2, changes[1], atol=1e-5)
        with pytest.raises(RuntimeError, match="while drawing"), lora.applied(1.0):
            raise RuntimeError("while drawing")
        assert torch.equal(module.weight, before)
