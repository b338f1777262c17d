"""Other spellings of LoRA files."""

from __future__ import annotations

import json

import pytest
import torch

from lora_eval.errors import LoraFileError
from lora_eval.lora.convert import is_lora_key, other_model, peft_settings, to_kohya, unsupported_kind
from lora_eval.lora.match import pairs

PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DOWN, UP = torch.randn(2, 8), torch.randn(8, 2)


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (f"unet.{PATH}.lora_A.weight", f"unet.{PATH}.lora_B.weight"),
        (f"{PATH}.lora_A.weight", f"{PATH}.lora_B.weight"),
        (f"unet.{PATH}.lora.down.weight", f"unet.{PATH}.lora.up.weight"),
        (f"unet.{PATH}.lora_down.weight", f"unet.{PATH}.lora_up.weight"),
        (f"base_model.model.{PATH}.lora_A.weight", f"base_model.model.{PATH}.lora_B.weight"),
        (f"base_model.model.{PATH}.lora_A.default.weight", f"base_model.model.{PATH}.lora_B.default.weight"),
        (f"unet.base_model.model.{PATH}.lora_A.style.weight", f"unet.base_model.model.{PATH}.lora_B.style.weight"),
        (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
        ),
        (
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_A.weight",
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_B.weight",
        ),
    ],
)
def test_every_spelling_becomes_kohyas(down: str, up: str) -> None:
    assert is_lora_key(down) and is_lora_key(up)
    found = to_kohya({down: DOWN, up: UP}, "sd1")
    assert found.keys() == {f"{NAME}.lora_down.weight", f"{NAME}.lora_up.weight"}
    assert found[f"{NAME}.lora_down.weight"] is DOWN and found[f"{NAME}.lora_up.weight"] is UP


def test_to_out_of_the_processors_is_its_linear_layer() -> None:
    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora"
    found = to_kohya({f"{stem}.down.weight": DOWN, f"{stem}.up.weight": UP}, "sd1")
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0.lora_up.weight" in found


def test_sdxl_gets_the_original_names() -> None:
    path = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    found = to_kohya({f"{path}.lora_A.weight": DOWN, f"{path}.lora_B.weight": UP}, "sdxl")
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in found


def test_kohya_keys_pass_unchanged_with_their_alpha() -> None:
    state = {f"{NAME}.alpha": torch.tensor(1.0), f"{NAME}.lora_down.weight": DOWN, f"{NAME}.lora_up.weight": UP}
    found = to_kohya(state)
    assert list(found) == list(state)
    assert all(found[key] is state[key] for key in state)


@pytest.mark.parametrize(
    ("part", "family", "prefix"),
    [
        ("text_encoder", "sd1", "lora_te_"),
        ("text_encoder", "sdxl", "lora_te1_"),
        ("text_encoder_2", "sdxl", "lora_te2_"),
    ],
)
@pytest.mark.parametrize("model", ["text_model.", ""])
def test_text_encoders_are_kept_apart(part: str, family: str, prefix: str, model: str) -> None:
    stem = f"{part}.{model}encoder.layers.3.self_attn.q_proj"
    for down, up in (("lora_A", "lora_B"), ("lora_linear_layer.down", "lora_linear_layer.up")):
        found = to_kohya({f"{stem}.{down}.weight": DOWN, f"{stem}.{up}.weight": UP}, family)
        assert set(found) == {
            f"{prefix}text_model_encoder_layers_3_self_attn_q_proj.lora_{half}.weight" for half in ("down", "up")
        }


def test_early_diffusers_text_encoder_projections() -> None:
    stem = "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora"
    found = to_kohya({f"{stem}.down.weight": DOWN, f"{stem}.up.weight": UP}, "sd1")
    assert "lora_te_text_model_encoder_layers_0_self_attn_out_proj.lora_up.weight" in found


# -- alpha ------------------------------------------------------------------------------------------


def scale(found: dict[str, torch.Tensor]) -> float:
    return pairs(found, "x")[NAME].scale


def test_without_settings_the_scale_is_one() -> None:
    assert scale(to_kohya({f"unet.{PATH}.lora_A.weight": DOWN, f"unet.{PATH}.lora_B.weight": UP})) == 1.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"r": 2, "lora_alpha": 8}, 4.0),
        ({"r": 2, "lora_alpha": 8, "use_rslora": True}, 8 / 2**0.5),
        ({"r": 2, "lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 6}}, 3.0),
        ({"r": 2, "lora_alpha": 8, "alpha_pattern": {"1.to_q": 6}}, 4.0),
        ({"r": 2, "lora_alpha": 8, "alpha_pattern": {r"down_blocks.*to_q": 6}}, 3.0),
    ],
)
def test_pefts_settings_give_the_scale(settings: dict[str, object], expected: float) -> None:
    state = {f"unet.{PATH}.lora_A.weight": DOWN, f"unet.{PATH}.lora_B.weight": UP}
    assert scale(to_kohya(state, alphas={"unet": settings})) == pytest.approx(expected)


def test_a_stored_alpha_goes_before_settings() -> None:
    state = {f"unet.{PATH}.lora_A.weight": DOWN, f"unet.{PATH}.lora_B.weight": UP}
    state[f"unet.{PATH}.alpha"] = torch.tensor(5.0)
    assert scale(to_kohya(state, alphas={"unet": {"lora_alpha": 8}})) == 2.5


def test_settings_are_read_from_either_place() -> None:
    packed = {"unet.lora_alpha": 16, "unet.r": 4, "text_encoder.lora_alpha": 2}
    found = peft_settings({"lora_adapter_metadata": json.dumps(packed)})
    assert found == {"unet": {"lora_alpha": 16, "r": 4}, "text_encoder": {"lora_alpha": 2}}
    assert peft_settings({}, json.dumps({"lora_alpha": 3}))["unet"]["lora_alpha"] == 3
    assert peft_settings({}) == {}
    with pytest.raises(LoraFileError, match="JSON"):
        peft_settings({"lora_adapter_metadata": "{"})
    with pytest.raises(LoraFileError, match="DoRA"):
        to_kohya({}, alphas=peft_settings({}, json.dumps({"use_dora": True})))


# -- refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (f"{NAME}.hada_w1_a", "LoHa"),
        (f"{NAME}.lokr_w1", "LoKr"),
        (f"{NAME}.lokr_w2_b", "LoKr"),
        (f"{NAME}.dora_scale", "DoRA"),
        (f"unet.{PATH}.lora_magnitude_vector", "DoRA"),
        (f"{NAME}.oft_blocks", "OFT"),
        (f"{NAME}.a1.weight", "GLoRA"),
        (f"{NAME}.lora_mid.weight", "lora_mid"),
        (f"{NAME}.diff", "full difference"),
        (f"{NAME}.diff_b", "full difference"),
        (f"{NAME}.w_norm", "norm"),
        (f"{NAME}.on_input", "IA3"),
        ("bundle_emb.zorp.string_to_param.*", "textual inversion"),
        (f"unet.{PATH}.lora_B.bias", "bias"),
    ],
)
def test_other_adapters_are_refused_by_name(key: str, name: str) -> None:
    with pytest.raises(LoraFileError) as caught:
        to_kohya({f"{NAME}.lora_down.weight": DOWN, f"{NAME}.lora_up.weight": UP, key: DOWN}, where="my file")
    assert name in str(caught.value) and key in str(caught.value) and "my file" in str(caught.value)


def test_plain_lora_is_no_other_kind() -> None:
    assert unsupported_kind([f"{NAME}.lora_down.weight", f"{NAME}.alpha", f"unet.{PATH}.lora_A.weight"]) is None


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("lora_unet_joint_blocks_0_context_block_attn_qkv.lora_up.weight", "Stable Diffusion 3"),
    ],
)
def test_other_models_are_named(key: str, name: str) -> None:
    found = other_model([key])
    assert found is not None and name in found
    assert other_model([f"{NAME}.alpha", f"unet.{PATH}.lora_A.weight"]) is None


@pytest.mark.parametrize(
    "key", ["something.else", "unet.encoder.block.0.lora_A.weight", "lora_unet_x.lora_left.weight"]
)
def test_a_key_of_no_spelling_is_named(key: str) -> None:
    with pytest.raises(LoraFileError) as caught:
        to_kohya({key: DOWN}, where="my file")
    assert key in str(caught.value) and "my file" in str(caught.value)


def test_two_keys_for_one_layer_are_an_error() -> None:
    with pytest.raises(LoraFileError, match="both name"):
        to_kohya({f"unet.{PATH}.lora_A.weight": DOWN, f"{PATH}.lora_A.weight": DOWN})
