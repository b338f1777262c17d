"""What a picture says of how it was drawn: prompt, seed, settings, LoRAs.

| program | where it writes |
|---|---|
| A1111, Forge | PNG text ``parameters``; JPEG, WebP, AVIF: EXIF ``UserComment``; ``NAME.txt`` beside the picture |
| ComfyUI | PNG text ``prompt`` (the graph that ran) and ``workflow``; WebP: EXIF ``prompt:{...}``, ``workflow:{...}`` |
| SwarmUI, Fooocus | JSON in place of the WebUI's text |
| InvokeAI | PNG text ``invokeai_metadata`` |

Sources: ``save_image_with_geninfo`` and ``read_info_from_image`` of AUTOMATIC1111/stable-diffusion-webui
(modules/images.py); ``SaveImage`` and ``SaveAnimatedWEBP`` of comfyanonymous/ComfyUI (nodes.py, comfy_extras/
nodes_images.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from lora_eval.reading import comfyui
from lora_eval.reading.infotext import Infotext, read_infotext
from lora_eval.reading.text import NotText, read_text

_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_TAG = re.compile(r"<(lora|lyco):([^:>]+)((?::[^:>]*)*)>", re.IGNORECASE)
_PAIR = re.compile(r"^\s*(\d+)\s*x\s*(\d+)\s*$")


class LoraUse(NamedTuple):
    """A LoRA that a picture was drawn with: name without folder and ending, and the UNet's weight."""

    name: str
    weight: float


@dataclass(frozen=True)
class Generation:
    """What a picture says of itself. None: it does not say; then ``unread`` may hold the reason.

    Attributes:
        program: who wrote it: "WebUI", "ComfyUI", "SwarmUI", "Fooocus", "InvokeAI".
        prompt: as it was typed, tags included; likewise ``negative_prompt``.
        loras: every LoRA by name, those of weight 0 among them; () when it was drawn without one.
        size: (width, height) of one picture, with what the WebUI's own upscaling makes of it.
        parameters: every setting of a WebUI's text, name -> value.
        unread: what is there and cannot be understood, field -> reason.
    """

    program: str
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    cfg: float | None = None
    sampler: str | None = None
    model: str | None = None
    loras: tuple[LoraUse, ...] | None = None
    size: tuple[int, int] | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)


def read_generation(path: Path) -> Generation | None:
    """What the picture ``path`` says of itself; None where it says nothing or is no picture."""
    texts, graphs = _read_texts(path)
    found = [one for one in (_from_text(text) for text in texts) if one is not None]
    graph = _from_graphs(graphs)
    if found and graph is not None:
        # the saving nodes of ComfyUI write a WebUI's text beside the graph; LoRA tags do nothing in ComfyUI itself
        return _joined(replace(found[0], loras=found[0].loras or None), graph)
    return found[0] if found else graph


def _joined(first: Generation, second: Generation) -> Generation:
    """``first``, with what it leaves open taken from ``second``."""
    names = ("prompt", "negative_prompt", "seed", "steps", "cfg", "sampler", "model", "loras")
    held = {name: getattr(second, name) for name in names if getattr(first, name) is None}
    unread = {name: why for name, why in second.unread.items() if held.get(name, "") is None}
    return replace(first, **held, unread={**first.unread, **unread})


# -- where the text stands -----------------------------------------------------------------------------


def _read_texts(path: Path) -> tuple[list[str], dict[str, str]]:
    """The WebUI-like texts of a picture, best first, and ComfyUI's JSON by "prompt" and "workflow"."""
    from PIL import Image

    texts: list[str] = []
    graphs: dict[str, str] = {}
    try:
        with Image.open(path) as image:
            # text may stand behind a PNG's pixels: only a loaded picture has all of it
            image.load()
            exif = image.getexif()
            for name in ("parameters", "invokeai_metadata"):
                if isinstance(image.info.get(name), str):
                    texts.append(image.info[name])
            graphs = {
                name: image.info[name] for name in ("prompt", "workflow") if isinstance(image.info.get(name), str)
            }
            texts.append(user_comment(exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")))
            for value in exif.values():
                name, colon, text = value.partition(":") if isinstance(value, str) else ("", "", "")
                if colon and name.lower() in ("prompt", "workflow") and text.lstrip().startswith("{"):
                    graphs.setdefault(name.lower(), text)
            comment = image.info.get("comment", b"")
            texts.append(comment.decode("utf-8", "ignore") if isinstance(comment, bytes) else str(comment))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pass
    if not any(texts):
        with suppress(OSError, NotText):
            texts.append(read_text(path.with_suffix(".txt")))
    return [text for text in texts if text.strip()], graphs


def user_comment(value: bytes | str) -> str:
    """The text of an EXIF ``UserComment``: eight bytes name its encoding, in UTF-16 of either byte order."""
    if isinstance(value, str):
        return value
    kind, body = value[:8], value[8:]
    if kind.startswith(b"UNICODE"):
        if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return body.decode("utf-16", "ignore")
        # the standard leaves the byte order open: the zeros of its Latin letters tell it
        big = body[0::2].count(0) >= body[1::2].count(0)
        return body.decode("utf-16-be" if big else "utf-16-le", "ignore")
    if kind.startswith((b"ASCII", b"JIS")) or kind == b"\0" * 8:
        return body.decode("utf-8", "ignore")
    return value.decode("utf-8", "ignore")


# -- what it says ----------------------------------------------------------------------------------------


def _from_text(text: str) -> Generation | None:
    if text.lstrip().startswith("{"):
        try:
            said = json.loads(text)
        except ValueError:
            return None
        return _from_json(said) if isinstance(said, dict) else None
    info = read_infotext(text)
    return from_infotext(info) if "Steps" in info.parameters or "Seed" in info.parameters else None


def from_infotext(info: Infotext) -> Generation:
    """A WebUI's text, understood."""
    settings = info.parameters
    found, unread = lora_tags(info.prompt)
    loras: tuple[LoraUse, ...] | None = found + additional_networks(settings)
    if unread:
        loras = None
    elif not loras and ("Civitai resources" in settings or "Lora hashes" in settings):
        loras, unread = None, "it names LoRAs without <lora:NAME:WEIGHT>"
    return Generation(
        "WebUI",
        info.prompt,
        info.negative_prompt,
        _whole(settings.get("Seed")),
        _whole(settings.get("Steps")),
        _real(settings.get("CFG scale")),
        settings.get("Sampler"),
        settings.get("Model"),
        loras,
        picture_size(settings),
        settings,
        {"loras": unread} if unread else {},
    )


def lora_tags(prompt: str) -> tuple[tuple[LoraUse, ...], str]:
    """The LoRAs of a prompt's tags, and why they cannot be read ("" where they can).

    A1111 takes ``<lora:NAME:TE:UNET>``, or ``te=``, ``unet=`` by name; the UNet's weight is the text encoder's where
    it is not written, and 1 where none is (extensions-builtin/Lora/extra_networks_lora.py). It adds up the tags of one
    name; how often that was meant is unknown, so it is not read.

    >>> lora_tags("a fox <lora:fox:0.8>")
    ((LoraUse(name='fox', weight=0.8),), '')
    >>> lora_tags("a fox <lora:fox:te=1:unet=0.5>")[0][0].weight
    0.5
    """
    found: dict[str, LoraUse] = {}
    for match in _TAG.finditer(prompt):
        places: list[str] = []
        named: dict[str, str] = {}
        for part in match[3].split(":")[1:]:
            key, equals, value = part.partition("=")
            if equals:
                named[key.strip().lower()] = value
            else:
                places.append(part)
        text = named.get("unet") or (places[1] if len(places) > 1 else "") or named.get("te") or "".join(places[:1])
        weight = _real(text) if text.strip() else 1.0
        name = match[2].strip()
        if weight is None:
            return (), f"the weight of {match[0]} is not a number"
        if name in found:
            return (), f"{name} stands in two tags"
        found[name] = LoraUse(name, weight)
    return tuple(found.values()), ""


def additional_networks(settings: Mapping[str, str]) -> tuple[LoraUse, ...]:
    """The LoRAs that kohya-ss/sd-webui-additional-networks applied: it writes settings, not tags."""
    found = []
    for key, value in settings.items():
        number = re.fullmatch(r"AddNet Model (\d+)", key)
        weight = _real(settings.get(f"AddNet Weight A {number[1]}")) if number else None
        if number and value != "None" and weight is not None:
            found.append(LoraUse(stem(re.sub(r"\([0-9a-f]+\)$", "", value)), weight))
    return tuple(found)


def picture_size(settings: Mapping[str, str]) -> tuple[int, int] | None:
    """Width and height of one picture by its ``Size``, ``Hires`` settings and the extras' upscaling; None: unknown."""
    size = _PAIR.match(settings.get("Size", ""))
    if size is None:
        return None
    width, height = int(size[1]), int(size[2])
    scale, target = _real(settings.get("Hires upscale")), _PAIR.match(settings.get("Hires resize", ""))
    if target is not None:
        wide, high = int(target[1]), int(target[2])
        width, height = wide or (height and width * high // height), high or (width and height * wide // width)
    elif scale:
        width, height = int(width * scale) // 8 * 8, int(height * scale) // 8 * 8
    return None if "Postprocess upscale by" in settings else (width, height)


def _from_json(said: dict[str, Any]) -> Generation:
    if isinstance(swarm := said.get("sui_image_params"), dict):
        names, weights = _list(swarm.get("loras")), _list(swarm.get("loraweights"))
        swarmed = [(name, weights[at] if len(weights) == len(names) else None) for at, name in enumerate(names)]
        return _plain("SwarmUI", swarm, ("negativeprompt", "cfgscale", "sampler", "model"), swarmed)
    if "positive_prompt" in said:
        invoked = [(_invoke_name(one, "model", "lora"), one.get("weight")) for one in _dicts(said.get("loras"))]
        flat = {**said, "prompt": said["positive_prompt"], "model": _invoke_name(said, "model")}
        return _plain("InvokeAI", flat, ("negative_prompt", "cfg_scale", "scheduler", "model"), invoked)
    if "prompt" in said and "guidance_scale" in said:
        rows = [(one[0], one[1]) for one in _list(said.get("loras")) if isinstance(one, list) and len(one) > 1]
        return _plain("Fooocus", said, ("negative_prompt", "guidance_scale", "sampler", "base_model"), rows)
    return Generation("another program", unread={"prompt": "its text is the JSON of a program that is not known"})


def _invoke_name(said: Mapping[str, Any], *keys: str) -> str | None:
    """The name of a model in InvokeAI's metadata, of version 3 (``model_name``) or later (``name``)."""
    held = next((value for key in keys if isinstance(value := said.get(key), dict)), {})
    return held.get("name", held.get("model_name"))


def _plain(
    program: str, said: dict[str, Any], keys: tuple[str, str, str, str], loras: list[tuple[Any, Any]]
) -> Generation:
    """A flat JSON of settings. ``keys``: where the negative prompt, cfg, sampler and model stand."""
    uses = [LoraUse(stem(str(name)), weight) for name, text in loras if name and (weight := _real(text)) is not None]
    prompt, negative = said.get("prompt"), said.get(keys[0], "")
    return Generation(
        program,
        prompt if isinstance(prompt, str) else None,
        negative if isinstance(negative, str) else None,
        _whole(said.get("seed")),
        _whole(said.get("steps")),
        _real(said.get(keys[1])),
        str(said[keys[2]]) if said.get(keys[2]) else None,
        str(said[keys[3]]) if said.get(keys[3]) else None,
        tuple(uses) if len(uses) == len(loras) else None,
        unread={} if len(uses) == len(loras) else {"loras": "a LoRA without a weight"},
    )


def _from_graphs(graphs: Mapping[str, str]) -> Generation | None:
    """ComfyUI's graph: the one that ran where it is there, else the one of the page."""
    for name in ("prompt", "workflow"):
        try:
            graph = json.loads(graphs[name]) if name in graphs else None
        except ValueError:
            continue
        if not isinstance(graph, dict):
            continue
        nodes = comfyui.nodes_of_page(graph) if isinstance(graph.get("nodes"), list) else comfyui.nodes_of_run(graph)
        if nodes:
            said, unread = comfyui.read(nodes)
            loras = said.pop("loras", None)
            uses = None if loras is None else tuple(LoraUse(stem(name), weight) for name, weight in loras)
            return Generation("ComfyUI", loras=uses, unread=unread, **said)
    return None


def stem(name: str) -> str:
    """A LoRA's name without its folder and the endings of weight files."""
    name = name.replace("\\", "/").rpartition("/")[2]
    return re.sub(r"\.(safetensors|pt|ckpt|bin|pth)$", "", name, flags=re.IGNORECASE)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in _list(value) if isinstance(one, dict)]


def _whole(value: Any) -> int | None:
    """A whole number to the last digit: ComfyUI's seeds go to 2**64 - 1, which a float does not hold."""
    try:
        return int(value) if not isinstance(value, float) or value.is_integer() else None
    except (TypeError, ValueError):
        return None


def _real(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
