"""ComfyUI's graph: what has one meaning is read, what has several is reported as not read."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_eval.reading import comfyui
from lora_eval.reading.generation import Generation, LoraUse, read_generation

# the example graph of comfyanonymous/ComfyUI (script_examples), with a LoRA
GRAPH: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 18446744073709551613, "steps": 20, "cfg": 8, "sampler_name": "euler", "scheduler": "normal",
        "denoise": 1, "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox", "clip": ["10", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["10", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    "10": {"class_type": "LoraLoader", "inputs": {
        "lora_name": "styles\\fox-000004.safetensors", "strength_model": 0.8, "strength_clip": 1.0,
        "model": ["4", 0], "clip": ["4", 1]}},
}  # fmt: skip


def said(tmp_path: Path, graph: Any, key: str = "prompt", **more: str) -> Generation:
    info = PngInfo()
    info.add_text(key, graph if isinstance(graph, str) else json.dumps(graph))
    for name, text in more.items():
        info.add_text(name, text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    found = read_generation(tmp_path / "a.png")
    assert found is not None
    return found


def changed(**nodes: dict[str, Any]) -> dict[str, Any]:
    """The graph with inputs of nodes (by "n3", ...) replaced or added."""
    graph = copy.deepcopy(GRAPH)
    for name, inputs in nodes.items():
        kind = inputs.pop("class_type", None)
        node = graph.setdefault(name[1:], {"class_type": kind, "inputs": {}})
        node["class_type"] = kind or node["class_type"]
        node["inputs"].update(inputs)
    return graph


def test_prompt_seed_settings_and_lora(tmp_path: Path) -> None:
    found = said(tmp_path, GRAPH)
    assert (found.program, found.prompt, found.negative_prompt) == ("ComfyUI", "a red fox", "blurry")
    assert (found.seed, found.steps, found.cfg, found.sampler) == (18446744073709551613, 20, 8.0, "euler")
    assert (found.model, found.loras) == ("sd15.safetensors", (LoraUse("fox-000004", 0.8),))
    assert not found.unread


def test_without_a_lora_the_weight_is_known_to_be_none(tmp_path: Path) -> None:
    graph = changed(n3={"model": ["4", 0]})
    del graph["10"]
    assert said(tmp_path, graph).loras == ()


def test_webp_carries_the_graph_in_exif(tmp_path: Path) -> None:
    """zanllp/infinite-image-browsing#798, crystian/ComfyUI-Crystools#67."""
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{json.dumps(GRAPH)}"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", exif=exif)
    found = read_generation(tmp_path / "a.webp")
    assert found is not None and found.seed == 18446744073709551613 and found.prompt == "a red fox"


def test_the_page_alone_is_read_where_its_nodes_are_comfyuis_own(tmp_path: Path) -> None:
    nodes = [
        {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["sd15.safetensors"]},
        {"id": 10, "type": "LoraLoader", "widgets_values": ["fox.safetensors", 0.8, 1],
         "inputs": [{"name": "model", "type": "MODEL", "link": 1}]},
        {"id": 11, "type": "LoraLoader", "mode": 4, "widgets_values": ["other.safetensors", 1, 1],
         "inputs": [{"name": "model", "type": "MODEL", "link": 2}]},
        {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a red fox"]},
        {"id": 7, "type": "CLIPTextEncode", "widgets_values": [""]},
        {"id": 5, "type": "EmptyLatentImage", "widgets_values": [512, 512, 1]},
        {"id": 3, "type": "KSampler", "widgets_values": [2**63 + 1, "randomize", 20, 8, "euler", "normal", 1],
         "inputs": [{"name": "model", "type": "MODEL", "link": 3}, {"name": "positive", "link": 4},
                    {"name": "negative", "link": 5}, {"name": "latent_image", "link": 6}]},
        {"id": 8, "type": "VAEDecode", "inputs": [{"name": "samples", "link": 7}]},
        {"id": 9, "type": "SaveImage", "inputs": [{"name": "images", "link": 8}], "widgets_values": ["x"]},
    ]  # fmt: skip
    links = [[1, 4, 0, 10, 0, "MODEL"], [2, 10, 0, 11, 0, "MODEL"], [3, 11, 0, 3, 0, "MODEL"],
             [4, 6, 0, 3, 1, "CONDITIONING"], [5, 7, 0, 3, 2, "CONDITIONING"], [6, 5, 0, 3, 3, "LATENT"],
             [7, 3, 0, 8, 0, "LATENT"], [8, 8, 0, 9, 0, "IMAGE"]]  # fmt: skip
    found = said(tmp_path, {"nodes": nodes, "links": links}, key="workflow")
    assert (found.prompt, found.negative_prompt, found.seed, found.steps) == ("a red fox", "", 2**63 + 1, 20)
    # the second loader is bypassed on the page, so it drew nothing
    assert found.loras == (LoraUse("fox", 0.8),)


def test_seed_and_text_from_nodes_of_their_own(tmp_path: Path) -> None:
    found = said(
        tmp_path,
        changed(
            n3={"seed": ["20", 0]},
            n6={"text": ["21", 0]},
            n20={"class_type": "PrimitiveInt", "value": 99},
            n21={"class_type": "String Literal", "string": "a blue fox"},
        ),
    )
    assert (found.seed, found.prompt) == (99, "a blue fox")


def test_samplers_of_separate_parts(tmp_path: Path) -> None:
    """Flux as ComfyUI's own example draws it: noise, guider, sampler and steps are nodes."""
    graph = changed(
        n3={"class_type": "SamplerCustomAdvanced", "noise": ["30", 0], "guider": ["31", 0], "sampler": ["32", 0],
            "sigmas": ["33", 0]},
        n30={"class_type": "RandomNoise", "noise_seed": 5},
        n31={"class_type": "BasicGuider", "model": ["10", 0], "conditioning": ["34", 0]},
        n32={"class_type": "KSamplerSelect", "sampler_name": "euler"},
        n33={"class_type": "BasicScheduler", "steps": 12, "model": ["10", 0]},
        n34={"class_type": "FluxGuidance", "conditioning": ["6", 0], "guidance": 3.5},
    )  # fmt: skip
    for name in ("seed", "steps", "cfg", "model", "positive", "negative", "sampler_name"):
        del graph["3"]["inputs"][name]
    found = said(tmp_path, graph)
    assert (found.seed, found.steps, found.sampler, found.prompt) == (5, 12, "euler", "a red fox")
    assert found.loras == (LoraUse("fox-000004", 0.8),)


def test_a_second_pass_does_not_hide_the_first(tmp_path: Path) -> None:
    second = {**GRAPH["3"]["inputs"], "seed": 1, "latent_image": ["3", 0], "denoise": 0.5}
    graph = changed(n40={"class_type": "KSampler", **second}, n8={"samples": ["40", 0]})
    assert said(tmp_path, graph).seed == 18446744073709551613


def test_texts_through_control_nets_keep_their_sides(tmp_path: Path) -> None:
    graph = changed(
        n3={"positive": ["50", 0], "negative": ["50", 1]},
        n50={"class_type": "ControlNetApplyAdvanced", "positive": ["6", 0], "negative": ["7", 0], "strength": 1.0},
    )
    found = said(tmp_path, graph)
    assert (found.prompt, found.negative_prompt) == ("a red fox", "blurry")


@pytest.mark.parametrize(
    ("inputs", "uses"),
    [
        ({"class_type": "Power Lora Loader (rgthree)", "lora_1": {"on": True, "lora": "fox.safetensors",
          "strength": 0.7}, "lora_2": {"on": False, "lora": "x.safetensors", "strength": 1}}, {"fox": 0.7}),
        ({"class_type": "LoRA Stacker", "input_mode": "simple", "lora_count": 1, "lora_name_1": "fox.safetensors",
          "lora_wt_1": 0.7, "model_str_1": 1.0, "lora_name_2": "x.safetensors", "lora_wt_2": 1.0}, {"fox": 0.7}),
        ({"class_type": "CR LoRA Stack", "switch_1": "On", "lora_name_1": "fox.safetensors", "model_weight_1": 0.7,
          "switch_2": "Off", "lora_name_2": "x.safetensors", "model_weight_2": 1.0}, {"fox": 0.7}),
        ({"class_type": "LoraLoaderModelOnly", "lora_name": "fox.safetensors", "strength_model": 0}, {"fox": 0.0}),
    ],
)  # fmt: skip
def test_loaders_of_several_loras(tmp_path: Path, inputs: dict[str, Any], uses: dict[str, float]) -> None:
    graph = changed(n3={"model": ["60", 0]}, n60={**copy.deepcopy(inputs), "model": ["4", 0]})
    found = said(tmp_path, graph)
    assert {use.name: use.weight for use in found.loras or ()} == uses


@pytest.mark.parametrize(
    ("nodes", "field", "reason"),
    [
        ({"n5": {"batch_size": 4}}, "seed", "in a batch"),
        ({"n3": {"seed": ["70", 0]}, "n70": {"class_type": "Odd", "a": 1, "b": 2}}, "seed", "not known"),
        ({"n3": {"positive": ["71", 0]}, "n71": {"class_type": "ConditioningCombine", "conditioning_1": ["6", 0],
          "conditioning_2": ["7", 0]}}, "prompt", "joined of 2 texts"),
        ({"n6": {"text": ["72", 0]}, "n72": {"class_type": "StringConcatenate", "string_a": "a", "string_b": "b"}},
         "prompt", "not known"),
        ({"n10": {"class_type": "Odd LoRA node"}, "n3": {"model": ["73", 0]},
          "n73": {"class_type": "LoraOfAnotherKind", "file": "fox", "model": ["4", 0]}}, "loras", "is not known"),
        ({"n3": {"model": ["74", 0]}, "n74": {"class_type": "ModelMergeSimple", "model1": ["10", 0],
          "model2": ["4", 0], "ratio": 0.5}}, "loras", "merged"),
    ],
)  # fmt: skip
def test_what_has_several_meanings_is_not_read(
    tmp_path: Path, nodes: dict[str, dict[str, Any]], field: str, reason: str
) -> None:
    found = said(tmp_path, changed(**copy.deepcopy(nodes)))
    assert reason in found.unread[field]
    assert getattr(found, field) is None


def test_two_pictures_in_one_graph(tmp_path: Path) -> None:
    other = {**GRAPH["3"]["inputs"], "seed": 1}
    graph = changed(n80={"class_type": "KSampler", **other}, n81={"class_type": "VAEDecode", "samples": ["80", 0]},
                    n9={"other": ["81", 0]})  # fmt: skip
    assert "2 samplers" in said(tmp_path, graph).unread["seed"]


def test_a_saving_nodes_text_comes_first_and_the_graph_fills_it(tmp_path: Path) -> None:
    """alexopus/ComfyUI-Image-Saver writes a WebUI's text beside the graph; its prompt has no tags."""
    text = "a red fox\nSteps: 20, Sampler: euler, CFG scale: 8.0, Seed: 3, Size: 8x8"
    found = said(tmp_path, GRAPH, parameters=text)
    assert (found.seed, found.loras) == (3, (LoraUse("fox-000004", 0.8),))


@pytest.mark.parametrize("text", ["{", "[]", '{"1": 2}', '{"nodes": 5}', '{"nodes": [{"id": 1}], "links": [[1]]}'])
def test_what_is_no_graph_is_no_reason_to_fail(tmp_path: Path, text: str) -> None:
    info = PngInfo()
    info.add_text("prompt", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    found = read_generation(tmp_path / "a.png")
    assert found is None or found.prompt is None


_NAMES = st.sampled_from(["1", "2", "3", "4"])
_KEYS = st.sampled_from([
    "model", "positive", "negative", "latent_image", "seed", "text", "lora_name", "strength_model", "images", "samples",
    "batch_size", "guider", "noise", "conditioning", "", "lora_count", "lora_name_1", "ckpt_name", "lora_1",
])  # fmt: skip
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.tuples(_NAMES, st.just(0)).map(list),
    st.just({"lora": "x", "strength": "y"}), st.lists(st.integers(), max_size=3),
)  # fmt: skip
_NODE = st.fixed_dictionaries({
    "class_type": st.sampled_from(["KSampler", "SaveImage", "CLIPTextEncode", "LoraLoader", "Odd"]),
    "inputs": st.dictionaries(_KEYS, _VALUES, max_size=6),
})  # fmt: skip


@given(st.dictionaries(_NAMES, _NODE, min_size=1, max_size=4))
def test_any_graph_is_read_or_not_read_but_never_fails(graph: dict[str, Any]) -> None:
    found, unread = comfyui.read(comfyui.nodes_of_run(graph))
    assert not {name for name in unread if found.get(name) is not None}
