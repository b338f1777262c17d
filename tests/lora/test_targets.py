"""Which layers a preset finds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_eval.errors import ConfigError
from lora_eval.lora.targets import as_target, find_targets


def paths(unet: nn.Module, *args: object) -> set[str]:
    return {target.path for target in find_targets(unet, *args)}


def test_attention_is_the_four_projections_of_both_attentions(unet: nn.Module) -> None:
    found = paths(unet, "attention")
    assert len(found) == 6 * 8  # 2 down, 1 mid, 3 up transformers of one block each
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0" in found
    assert all(path.rsplit("attn", 1)[1][2:] in {"to_q", "to_k", "to_v", "to_out.0"} for path in found)


def test_transformer_adds_projections_and_feed_forward(unet: nn.Module) -> None:
    added = paths(unet, "transformer") - paths(unet, "attention")
    stem = "mid_block.attentions.0."
    assert {path[len(stem) :] for path in added if path.startswith(stem)} == {
        "proj_in",
        "proj_out",
        "transformer_blocks.0.ff.net.0.proj",
        "transformer_blocks.0.ff.net.2",
    }
    assert len(added) == 6 * 4


def test_full_adds_resnets_and_samplers_but_neither_end(unet: nn.Module) -> None:
    added = paths(unet, "full") - paths(unet, "transformer")
    assert "down_blocks.0.downsamplers.0.conv" in added
    assert "up_blocks.0.upsamplers.0.conv" in added
    assert {p.rsplit(".", 1)[1] for p in added if "resnets" in p} == {
        "conv1",
        "conv2",
        "conv_shortcut",
        "time_emb_proj",
    }
    assert not {"conv_in", "conv_out"} & added
    assert paths(unet, "all") - paths(unet, "full") == {
        "conv_in",
        "conv_out",
        "time_embedding.linear_1",
        "time_embedding.linear_2",
    }


@pytest.mark.parametrize("preset", ["attention", "transformer", "full", "all"])
def test_both_spellings_have_the_same_targets_and_sizes(unet: nn.Module, ldm_unet: nn.Module, preset: str) -> None:
    shapes = [
        sorted((t.in_size, t.out_size, t.kernel or ()) for t in find_targets(u, preset)) for u in (unet, ldm_unet)
    ]
    assert shapes[0] == shapes[1]


def test_order_is_that_of_the_modules(unet: nn.Module) -> None:
    found = [target.path for target in find_targets(unet, "full")]
    everything = [path for path, _ in unet.named_modules()]
    assert found == sorted(found, key=everything.index)


@pytest.mark.parametrize(
    ("blocks", "starts"),
    [
        (["in"], ("down_blocks.",)),
        ("mid", ("mid_block.",)),
        ({"mid", "out"}, ("mid_block.", "up_blocks.")),
        ([r"^up_blocks\.1\.attentions\.2\."], ("up_blocks.1.attentions.2.",)),
    ],
)
def test_blocks_are_chosen_by_name_or_expression(unet: nn.Module, blocks: object, starts: tuple[str, ...]) -> None:
    chosen = paths(unet, "full", blocks)
    assert chosen == {path for path in paths(unet, "full") if path.startswith(starts)}


def test_packed_weights_are_measured_by_their_features() -> None:
    packed = nn.Linear(64, 32)
    packed.weight = nn.Parameter(torch.zeros(64 * 32 // 2, 1, dtype=torch.uint8), requires_grad=False)
    target = as_target("x", packed)
    assert target is not None
    assert (target.in_size, target.out_size, target.kernel) == (64, 32, None)


@pytest.mark.parametrize(
    "module",
    [
        nn.LayerNorm(4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Conv1d(4, 4, 3),
        nn.Embedding(4, 4),
    ],
)
def test_other_layers_are_no_targets(module: nn.Module) -> None:
    assert as_target("x", module) is None


def test_shapes_of_the_halves() -> None:
    conv = as_target("x", nn.Conv2d(5, 7, (3, 1)))
    linear = as_target("x", nn.Linear(5, 7))
    assert conv is not None and linear is not None
    assert (conv.down_shape(2), conv.up_shape(2)) == ((2, 5, 3, 1), (7, 2, 1, 1))
    assert (linear.down_shape(2), linear.up_shape(2)) == ((2, 5), (7, 2))


@pytest.mark.parametrize(
    ("preset", "blocks", "words"),
    [
        ("atention", None, ["'atention'", "attention, transformer, full"]),
        ("attention", ["["], ["'['", "regular expression"]),
        ("attention", [], ["empty"]),
        ("attention", ["nowhere"], ["'attention'", "nowhere", "to_q"]),
    ],
)
def test_errors_say_what_was_looked_for(unet: nn.Module, preset: str, blocks: object, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        find_targets(unet, preset, blocks)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words)


def test_a_network_that_is_no_unet_is_named() -> None:
    with pytest.raises(ConfigError, match="Sequential"):
        find_targets(nn.Sequential(nn.Linear(2, 2)), "transformer")


def test_sd1_has_192_transformer_layers_as_in_kohya() -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel()  # the defaults are SD1's layout
    counts = [len(find_targets(unet, preset)) for preset in ("attention", "transformer", "full")]
    # full: 22 resnets x (conv1, conv2, time_emb_proj), 14 shortcuts, 3 + 3 samplers
    assert counts == [128, 192, 192 + 22 * 3 + 14 + 6]
