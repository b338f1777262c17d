"""ComfyUI's graph of nodes, read for what a scorecard needs: prompt, seed, settings and LoRAs of one picture.

A graph says how pictures were made, not what they are; only what has one meaning is read. From a node that saves,
links are followed to the sampler that starts the picture (the one whose latent comes from no other sampler), and from
it to its texts and to the LoRAs on its way to the model. What has several meanings (two texts joined, a batch with one
seed, models merged behind a LoRA) is reported as not read, with the reason.

Formats: the ``prompt`` of comfyanonymous/ComfyUI (script_examples/basic_api_example.py) and the page's ``workflow``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Nodes = Mapping[str, "Node"]
_TEXTS = ("text", "text_g", "text_l", "clip_l", "t5xxl", "prompt", "string", "value", "text_positive")
_NUMBERS = ("seed", "noise_seed", "value", "int", "number", "float", "noise", "seed_num")
_CONDITIONING = re.compile(r"^(positive|negative|conditioning\w*|cond\w*|guider|)$")
_MODEL = re.compile(r"^((opt_|optional_)?(model|lora_stack)(_opt)?|any\w*|guider|unet|)$")
_SEVERAL_MODELS = re.compile(r"^model_?[\dab]$")
_LORA_NAME = re.compile(r"^lora_name(_?\d*)$")
_WEIGHTS = ("strength_model", "lora_model_strength", "model_weight", "model_str", "lora_wt", "strength", "weight")
# what the page keeps by position: the widgets of ComfyUI's own nodes that are read here
_WIDGETS = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name"),
    "KSamplerAdvanced": ("", "noise_seed", "", "steps", "cfg", "sampler_name"),
    "SamplerCustom": ("", "noise_seed", "", "cfg"),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("", "steps"),
    "CFGGuider": ("cfg",),
    "CLIPTextEncode": ("text",),
    "LoraLoader": ("lora_name", "strength_model"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "EmptyLatentImage": ("", "", "batch_size"),
    "EmptySD3LatentImage": ("", "", "batch_size"),
    "PrimitiveNode": ("value",),
}
_BYPASSED, _MUTED = 4, 2


@dataclass(frozen=True)
class Link:
    """An input that is another node's output number ``slot``."""

    node: str
    slot: int


@dataclass(frozen=True)
class Node:
    """A node's class and its inputs: values, or links to other nodes."""

    kind: str
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def link(self, *names: str) -> Link | None:
        """The first of these inputs that is a link."""
        return next((value for name in names if isinstance(value := self.inputs.get(name), Link)), None)


class _Unread(Exception):
    """Why something in the graph has no one meaning."""


def nodes_of_run(graph: Mapping[str, Any]) -> dict[str, Node]:
    """The nodes of ``prompt``, the graph that ran: id -> {"class_type", "inputs"}; a link is [id, slot]."""
    found = {}
    for name, node in graph.items():
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict):
            inputs = {key: _as_link(value) for key, value in node["inputs"].items()}
            found[str(name)] = Node(str(node.get("class_type", "")), inputs)
    return found


def _as_link(value: Any) -> Any:
    pair = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int
    return Link(str(value[0]), value[1]) if pair else value


def nodes_of_page(graph: Mapping[str, Any]) -> dict[str, Node]:
    """The nodes of ``workflow``, the page: links by number, widgets by position; bypassed nodes pass through."""
    listed = {str(node["id"]): node for node in graph["nodes"] if isinstance(node, dict) and "id" in node}
    links = {one[0]: one for one in graph.get("links", ()) if isinstance(one, list) and len(one) >= 6}

    def follow(number: Any) -> Link | None:
        for _ in range(len(listed) + 1):
            link = links.get(number)
            source = listed.get(str(link[1])) if link else None
            if link is None or source is None or source.get("mode") == _MUTED:
                return None
            if source.get("mode") != _BYPASSED:
                return Link(str(link[1]), int(link[2]))
            number = next((one.get("link") for one in source.get("inputs") or () if one.get("type") == link[5]), None)
        return None

    found = {}
    for name, node in listed.items():
        if node.get("mode") in (_BYPASSED, _MUTED):
            continue
        kind, values = str(node.get("type", "")), node.get("widgets_values")
        inputs: dict[str, Any] = dict(values) if isinstance(values, dict) else {}
        if isinstance(values, list):
            inputs = {key: value for key, value in zip(_WIDGETS.get(kind, ()), values, strict=False) if key}
        for one in node.get("inputs") or ():
            if isinstance(one, dict) and (link := follow(one.get("link"))) is not None:
                inputs[str(one.get("name", ""))] = link
        found[name] = Node(kind, inputs)
    return found


def read(nodes: Nodes) -> tuple[dict[str, Any], dict[str, str]]:
    """What the graph says, and what in it cannot be read.

    Returns:
        ({"prompt", "negative_prompt", "seed", "steps", "cfg", "sampler", "model", "loras": [(file, weight)]} as far as
        they are known, field -> reason for the others).
    """
    said: dict[str, Any] = {}
    unread: dict[str, str] = {}
    try:
        sampler = nodes[_first_sampler(nodes)]
    except _Unread as reason:
        return {}, dict.fromkeys(("prompt", "seed", "loras"), str(reason))
    guider = _node(nodes, sampler.link("guider")) or sampler
    noise = _node(nodes, sampler.link("noise")) or sampler
    for name, get in (
        ("prompt", lambda: _one_text(nodes, guider.link("positive", "conditioning"), "positive")),
        ("negative_prompt", lambda: _one_text(nodes, guider.link("negative"), "negative")),
        ("seed", lambda: _seed(nodes, sampler, noise)),
        ("loras", lambda: _loras(nodes, guider.link("model") or sampler.link("model"))),
    ):
        try:
            said[name] = get()
        except _Unread as reason:
            unread[name] = str(reason)
    scheduler, chooser = _node(nodes, sampler.link("sigmas")), _node(nodes, sampler.link("sampler"))
    steps = _number(nodes, (scheduler or sampler).inputs.get("steps"))
    cfg = _number(nodes, guider.inputs.get("cfg"))
    method = (chooser or sampler).inputs.get("sampler_name")
    said["steps"], said["cfg"] = None if steps is None else int(steps), None if cfg is None else float(cfg)
    said["sampler"], said["model"] = method if isinstance(method, str) else None, _model(nodes, guider, sampler)
    return said, unread


def _node(nodes: Nodes, link: Link | None) -> Node | None:
    return nodes.get(link.node) if link is not None else None


def _upstream(nodes: Nodes, start: Iterable[str], allowed: re.Pattern[str] | None = None) -> list[str]:
    """Nodes from which the given ones are made, themselves first; ``allowed``: names of inputs to follow."""
    seen: dict[str, None] = {}
    open_ = list(start)
    while open_:
        name = open_.pop(0)
        if name in seen or name not in nodes:
            continue
        seen[name] = None
        for key, value in nodes[name].inputs.items():
            if isinstance(value, Link) and (allowed is None or allowed.match(key)):
                open_.append(value.node)
    return list(seen)


def _is_sampler(node: Node) -> bool:
    """Whether the node makes a latent of a latent by steps."""
    return node.link("latent_image") is not None and (
        node.link("guider") is not None or (node.link("positive") is not None and node.link("model") is not None)
    )


def _first_sampler(nodes: Nodes) -> str:
    saving = [
        name for name, node in nodes.items() if re.search("save", node.kind, re.I) and node.link("images", "image")
    ]
    pictures = saving or [name for name, node in nodes.items() if node.link("images")] or list(nodes)
    found = [name for name in _upstream(nodes, pictures) if _is_sampler(nodes[name])]
    first = []
    for name in found:
        latent = nodes[name].link("latent_image")
        before = _upstream(nodes, [latent.node] if latent else [])
        if not any(_is_sampler(nodes[other]) for other in before):
            first.append(name)
    if len(first) != 1:
        raise _Unread(f"the graph has {len(first)} samplers that start a picture" if first else "no sampler is known")
    return first[0]


def _seed(nodes: Nodes, sampler: Node, noise: Node) -> int:
    latent = sampler.link("latent_image")
    for name in _upstream(nodes, [latent.node] if latent else []):
        size = _number(nodes, nodes[name].inputs.get("batch_size", 1))
        if size is None or size > 1:
            raise _Unread("it was drawn in a batch, for which ComfyUI writes one seed")
    value = next((noise.inputs[key] for key in ("seed", "noise_seed") if key in noise.inputs), None)
    number = _number(nodes, value)
    if number is None or number != int(number):
        raise _Unread("the seed comes from a node that is not known")
    return int(number)


def _number(nodes: Nodes, value: Any, depth: int = 0) -> int | float | None:
    """A number, or that of the node which it comes from, where that node has one."""
    if isinstance(value, bool) or depth > len(nodes):
        return None
    if isinstance(value, int | float):
        return value if math.isfinite(value) else None
    node = _node(nodes, value) if isinstance(value, Link) else None
    if node is None:
        return None
    named = [one for key, one in node.inputs.items() if key.lower() in _NUMBERS or key == ""]
    return _number(nodes, named[0], depth + 1) if len(named) == 1 else None


def _text(nodes: Nodes, value: Any, depth: int = 0) -> str:
    if isinstance(value, str):
        return value
    node = _node(nodes, value) if isinstance(value, Link) else None
    held = {} if node is None else {key: one for key, one in node.inputs.items() if isinstance(one, str | Link)}
    named = [one for key, one in held.items() if key.lower() in _TEXTS or key == ""]
    joined = len([one for one in held.values() if isinstance(one, Link)]) > 1
    if len(named) != 1 or joined or depth > len(nodes):
        raise _Unread(f'the text comes from "{node.kind if node else value}", which is not known')
    return _text(nodes, named[0], depth + 1)


def _one_text(nodes: Nodes, start: Link | None, side: str) -> str:
    """The one text that the conditioning is made of; "" where it is made of none."""
    found: dict[str, None] = {}
    seen: set[Link] = set()
    open_ = [start] if start else []
    while open_:
        link = open_.pop(0)
        node = nodes.get(link.node)
        if link in seen or node is None or node.kind == "ConditioningZeroOut":
            continue
        seen.add(link)
        if isinstance(node.inputs.get("positive"), str) and isinstance(node.inputs.get("negative"), str):
            # a loader with both texts in it, as of the Efficiency nodes
            found[str(node.inputs[side])] = None
            continue
        texts = [_text(nodes, node.inputs[key]) for key in _TEXTS if key in node.inputs]
        found.update(dict.fromkeys(texts))
        both = node.link("positive") is not None and node.link("negative") is not None
        wanted = {"positive", "negative"} - {side} if both else set()
        for key, value in node.inputs.items():
            if not texts and isinstance(value, Link) and _CONDITIONING.match(key) and key not in wanted:
                open_.append(value)
        if not texts and not any(isinstance(value, Link) for value in node.inputs.values()):
            raise _Unread(f'the text comes from "{node.kind}", which is not known')
    texts = [text for text in found if text.strip()]
    if len(texts) > 1:
        raise _Unread(f"it is joined of {len(texts)} texts")
    return texts[0] if texts else ""


def _loras(nodes: Nodes, start: Link | None) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    merged = False
    for name in _upstream(nodes, [start.node] if start else [], _MODEL):
        node = nodes[name]
        merged |= any(_SEVERAL_MODELS.match(key) for key, value in node.inputs.items() if isinstance(value, Link))
        uses = _uses(nodes, node)
        if not uses and re.search("lora", node.kind, re.I) and not _is_empty_stack(node):
            raise _Unread(f'"{node.kind}" is not known')
        found += uses
    if merged and any(re.search("lora", node.kind, re.I) for node in nodes.values()):
        raise _Unread("models are merged behind a LoRA")
    if len({name for name, _ in found}) < len(found):
        raise _Unread("a LoRA is applied twice")
    return found


def _is_empty_stack(node: Node) -> bool:
    """A loader of LoRAs of which none is chosen or on."""
    return any(
        _LORA_NAME.match(key) or (isinstance(value, dict) and "lora" in value) or key.endswith("lora_stack")
        for key, value in node.inputs.items()
    )


def _uses(nodes: Nodes, node: Node) -> list[tuple[str, float]]:
    """The LoRAs that one node applies: a plain loader, a numbered stack, or rgthree's rows."""
    found = []
    count = _number(nodes, node.inputs.get("lora_count", node.inputs.get("num_loras", 99)))
    for key, value in node.inputs.items():
        if isinstance(value, dict) and "lora" in value and "strength" in value:
            strength = _number(nodes, value["strength"])
            if strength is None:
                raise _Unread(f'the weight of "{node.kind}" is not a number')
            if value.get("on", True):
                found.append((str(value["lora"]), float(strength)))
            continue
        named = _LORA_NAME.match(key)
        if named is None or value in (None, "None", ""):
            continue
        number = named[1].strip("_")
        switch = str(node.inputs.get(f"switch_{number}", "On")).lower()
        if switch in ("off", "false") or (number and count is not None and int(number) > count):
            continue
        keys = [f"{weight}{named[1]}" for weight in _WEIGHTS if f"{weight}{named[1]}" in node.inputs]
        if len(keys) > 1 and node.inputs.get("input_mode") == "simple":
            keys = [one for one in keys if one.startswith("lora_wt")]
        weight = _number(nodes, node.inputs[keys[0]]) if keys else None
        if weight is None or not isinstance(value, str):
            raise _Unread(f'the weight of "{node.kind}" comes from a node that is not known')
        found.append((value, float(weight)))
    return found


def _model(nodes: Nodes, *starts: Node) -> str | None:
    """The base model's file, where there is one."""
    links = [link.node for node in starts if (link := node.link("model")) is not None]
    names = [
        str(value)
        for name in _upstream(nodes, links, _MODEL)
        for key, value in nodes[name].inputs.items()
        if key in ("ckpt_name", "unet_name", "base_ckpt_name") and isinstance(value, str)
    ]
    return names[0] if len(set(names)) == 1 else None
