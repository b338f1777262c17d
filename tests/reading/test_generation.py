"""What a picture says of how it was drawn, in the forms that programs write.

Threads that stand behind: AUTOMATIC1111/stable-diffusion-webui#270 (JPEG carries its text in EXIF), #10651 and #14876
(text read back by other tools), zanllp/infinite-image-browsing#798 (ComfyUI's WebP), comfyanonymous/ComfyUI#73 (a batch
has one seed), RupertAvery/DiffusionToolkit#72 (the graph as the only text), daveschumaker/
artbot-for-stable-diffusion#147 (another program's JPEG).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_eval.reading.generation import LoraUse, lora_tags, picture_size, read_generation, user_comment

TEXT = (
    "a red fox, (sharp:1.2) <lora:fox-000004:0.8>\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 6.5, Seed: 18446744073709551613, Size: 96x64, Model: base"
)


def png(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text) if text.isascii() else info.add_itxt(name, text)
    Image.new("RGB", (96, 64)).save(path, pnginfo=info)
    return path


def with_comment(path: Path, comment: bytes) -> Path:
    exif = Image.Exif()
    # Pillow 9.5 and later alike keep a sub-directory that is given so
    exif[0x8769] = {0x9286: comment}
    Image.new("RGB", (96, 64)).save(path, exif=exif)
    return path


@pytest.fixture(params=["png", "jpeg", "webp", "jpeg, other byte order", "ASCII comment", "text beside"])
def picture(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same text in every place where the WebUI, or a tool that writes its format, leaves it."""
    kind = request.param
    if kind == "png":
        return png(tmp_path / "a.png", parameters=TEXT)
    if kind == "text beside":
        Image.new("RGB", (96, 64)).save(tmp_path / "a.jpg")
        (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
        return tmp_path / "a.jpg"
    if kind == "ASCII comment":
        return with_comment(tmp_path / "a.jpg", b"ASCII\0\0\0" + TEXT.encode())
    coded = TEXT.encode("utf-16-le" if "other" in kind else "utf-16-be")
    return with_comment(tmp_path / f"a.{kind[:4].replace('jpeg', 'jpg')}", b"UNICODE\0" + coded)


def test_the_webuis_text_is_found_wherever_it_stands(picture: Path) -> None:
    said = read_generation(picture)
    assert said is not None and said.program == "WebUI"
    assert (said.seed, said.steps, said.cfg, said.sampler) == (18446744073709551613, 20, 6.5, "Euler a")
    assert (said.negative_prompt, said.model, said.size) == ("blurry", "base", (96, 64))
    assert said.loras == (LoraUse("fox-000004", 0.8),)


def test_a_picture_without_text_and_no_picture_say_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "a.txt").write_text("a red fox, a caption", encoding="utf-8")
    assert read_generation(tmp_path / "a.png") is None
    assert read_generation(tmp_path / "b.png") is None
    assert read_generation(tmp_path / "none.png") is None


@pytest.mark.parametrize("text", ["狐狸，红色", "ключ", "fox"])
def test_a_comment_in_utf16_of_either_order(text: str) -> None:
    text += ", Steps: 20, Seed: 1"
    for order in ("utf-16-be", "utf-16-le"):
        assert user_comment(b"UNICODE\0" + text.encode(order)) == text
    assert user_comment(b"UNICODE\0" + text.encode("utf-16")) == text


@pytest.mark.parametrize(
    ("tag", "weight"),
    [
        ("<lora:fox:0.5>", 0.5),
        ("<lora:fox>", 1.0),
        ("<lora:fox:-0.25>", -0.25),
        ("<lora:fox:0.5:0.75>", 0.75),
        ("<lora:fox:unet=0.3:te=0.9>", 0.3),
        ("<lora:fox:te=0.9>", 0.9),
        ("<lyco:fox:1.2>", 1.2),
        ("<lora:fox:0.5:0.6:8>", 0.6),
    ],
)
def test_the_weight_of_a_tag_is_the_unets(tag: str, weight: float) -> None:
    assert lora_tags(f"a fox {tag}, red") == ((LoraUse("fox", weight),), "")


def test_tags_that_have_no_one_meaning_are_not_read() -> None:
    assert lora_tags("<lora:fox:high>")[1] == "the weight of <lora:fox:high> is not a number"
    assert lora_tags("<lora:fox:0.5> <lora:fox:0.5>")[1] == "fox stands in two tags"
    assert lora_tags("a fox <hypernet:x:1>") == ((), "")


def test_loras_that_are_named_outside_the_prompt(tmp_path: Path) -> None:
    """kohya-ss/sd-webui-additional-networks writes settings; Civitai's resources have no name that can be drawn."""
    more = ", AddNet Enabled: True, AddNet Module 1: LoRA, AddNet Model 1: fox(12ab34cd56ef), AddNet Weight A 1: 0.7"
    plain = TEXT.replace(" <lora:fox-000004:0.8>", "")
    said = read_generation(png(tmp_path / "a.png", parameters=plain + more))
    assert said is not None and said.loras == (LoraUse("fox", 0.7),)
    said = read_generation(png(tmp_path / "b.png", parameters=plain + ', Lora hashes: "fox: 12ab"'))
    assert said is not None and said.loras is None and "names LoRAs without" in said.unread["loras"]


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"Size": "512x768"}, (512, 768)),
        ({"Size": "512x768", "Hires upscale": "1.5"}, (768, 1152)),
        ({"Size": "512x768", "Hires resize": "1024x1536"}, (1024, 1536)),
        ({"Size": "512x768", "Hires resize": "0x1536"}, (1024, 1536)),
        ({"Size": "512x768", "Postprocess upscale by": "4"}, None),
        ({}, None),
    ],
)
def test_the_size_counts_the_webuis_own_upscaling(settings: dict[str, str], size: tuple[int, int] | None) -> None:
    assert picture_size(settings) == size


SWARM = {"sui_image_params": {"prompt": "a fox", "negativeprompt": "blurry", "seed": 7, "steps": 20, "cfgscale": 6.5,
                              "model": "base", "loras": ["sub/fox"], "loraweights": ["0.8"]}}  # fmt: skip
INVOKE = {"positive_prompt": "a fox", "negative_prompt": "blurry", "seed": 7, "steps": 20, "cfg_scale": 6.5,
          "model": {"name": "base"}, "loras": [{"model": {"name": "fox"}, "weight": 0.8}]}  # fmt: skip
FOOOCUS = {"prompt": "a fox", "negative_prompt": "blurry", "seed": "7", "steps": 20, "guidance_scale": 6.5,
           "base_model": "base", "loras": [["fox.safetensors", 0.8, "12ab"]]}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "said"), [("parameters", SWARM), ("invokeai_metadata", INVOKE), ("parameters", FOOOCUS)]
)
def test_the_json_of_other_programs(tmp_path: Path, key: str, said: dict) -> None:  # type: ignore[type-arg]
    found = read_generation(png(tmp_path / "a.png", **{key: json.dumps(said)}))
    assert found is not None
    assert (found.prompt, found.negative_prompt, found.seed, found.steps, found.cfg) == ("a fox", "blurry", 7, 20, 6.5)
    assert (found.model, found.loras) == ("base", (LoraUse("fox", 0.8),))


def test_json_of_a_program_that_is_not_known_is_not_taken_for_a_prompt(tmp_path: Path) -> None:
    found = read_generation(png(tmp_path / "a.png", parameters='{"text": "a fox", "Seed": 3}'))
    assert found is not None and found.prompt is None and "not known" in found.unread["prompt"]
