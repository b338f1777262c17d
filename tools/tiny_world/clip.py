"""Train an open_clip model (ModifiedResNet tower) on the wide domain, and gate it on attribute swaps."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file, save_file

from . import data
from .drawings import (
    BACKGROUNDS,
    CLASS_WORD,
    COLOURS,
    N_TEMPLATES,
    POSITIONS,
    SHAPES,
    STYLE_CLASS_WORD,
    SUBJECTS,
    TEXTURES,
    Drawing,
    describe,
    jitter,
    sample,
)
from .export import CLIP

CONTEXT = 24
MODEL_CFG = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
MEAN, STD = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)
HEADS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "texture": TEXTURES,
    "position": tuple(POSITIONS),
}
STEPS, GROUPS, RATE = 2300, 16, 2e-3
GROUP = 8
"""Drawings that differ in one attribute only: the hard negatives."""


def build() -> torch.nn.Module:
    """A fresh open_clip model of the shipped configuration."""
    return open_clip.CLIP(**MODEL_CFG)


def save(model: torch.nn.Module, out: Path = CLIP) -> None:
    """Write open_clip_config.json and fp16 open_clip_model.safetensors, buffers of masks left out."""
    out.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": MODEL_CFG, "preprocess_cfg": preprocess}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    weights = {
        k: (v.half() if v.is_floating_point() else v).contiguous()
        for k, v in model.state_dict().items()
        if not k.endswith("attn_mask")
    }
    save_file(weights, out / "open_clip_model.safetensors", metadata={"format": "pt"})
    (out / "open_clip_model.safetensors").chmod(0o644)


def load(folder: Path = CLIP) -> torch.nn.Module:
    """Load by open_clip's own classes; strict except for the causal mask, a buffer that releases store differently."""
    config = json.loads((folder / "open_clip_config.json").read_text())
    model = open_clip.CLIP(**config["model_cfg"])
    weights = {
        k: v.float() if v.is_floating_point() else v
        for k, v in load_file(folder / "open_clip_model.safetensors").items()
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    wrong = [k for k in (*missing, *unexpected) if not k.endswith("attn_mask")]
    if wrong:
        raise ValueError(f"tiny-clip does not fit this open_clip: {wrong[:3]}")
    return model.eval()


def tokenise(texts: list[str]) -> torch.Tensor:
    """open_clip's default tokenizer cut to the model's context, (N, 24)."""
    return open_clip.tokenizer.tokenize(texts, context_length=CONTEXT)


def to_input(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (N, 3, 64, 64) to normalised float."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


@torch.no_grad()
def embed_images(model: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Unit vectors (N, 128)."""
    model.eval()
    parts = [model.encode_image(to_input(pixels[at : at + 128])) for at in range(0, len(pixels), 128)]
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1).numpy()


@torch.no_grad()
def embed_texts(model: torch.nn.Module, texts: list[str]) -> np.ndarray:
    """Unit vectors (N, 128)."""
    model.eval()
    parts = [model.encode_text(tokenise(texts[at : at + 256])) for at in range(0, len(texts), 256)]
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1).numpy()


# ---------------------------------------------------------------- training


def _noun(shape: str) -> str | None:
    """Spoken name: glyph families have a made-up one, other glyphs and held-out subjects the class word."""
    if shape.startswith("glyph:"):
        number = int(shape[6:])
        return data.made_up_name(number) if number < data.GLYPH_FAMILIES else CLASS_WORD
    return CLASS_WORD if shape in SUBJECTS else None


def _style_word(style: str) -> str:
    number = int(style[6:]) if style.startswith("style:") else data.STYLE_FAMILIES
    return data.made_up_name(10_000 + number) if number < data.STYLE_FAMILIES else STYLE_CLASS_WORD


def _seed_drawing(rng: np.random.Generator) -> Drawing:
    u = rng.random()
    family = f"glyph:{int(rng.integers(data.GLYPH_FAMILIES))}"
    shapes = SHAPES if u < 0.5 else (family,)
    drawing = sample(rng, shapes)
    if rng.random() < 0.3:
        drawing = replace(drawing, style=f"style:{int(rng.integers(data.STYLE_FAMILIES))}")
    return drawing


_VARIED = (*("shape",) * 4, *("glyph",) * 3, "position", "colour", "background", "texture", "style", "pair")
"""What varies in a group; shape is learnt last, hence the most often."""


def _group(rng: np.random.Generator) -> list[Drawing]:
    """Eight drawings equal but for one attribute (or two of them crossed)."""
    first = _seed_drawing(rng)
    head = _VARIED[int(rng.integers(len(_VARIED)))]
    out = []
    if head == "pair":  # texture x position, else few values would fill a group
        for texture in TEXTURES:
            for position in rng.permutation(tuple(POSITIONS))[:2]:
                out.append(replace(first, texture=texture, position=str(position)))
    else:
        if head == "glyph":
            values = [f"glyph:{n}" for n in rng.choice(data.GLYPH_FAMILIES, GROUP, replace=False)]
        elif head == "style":
            values = ["", *(f"style:{n}" for n in rng.choice(data.STYLE_FAMILIES, GROUP - 1, replace=False))]
        else:
            values = [str(v) for v in rng.permutation(HEADS[head])]
        key = {"glyph": "shape"}.get(head, head)
        out = [replace(first, **{key: v}) for v in values[:GROUP]]
    return [jitter(d, rng) for d in out]


_CODES: dict[str, dict[str, int]] = {
    name: {} for name in ("shape", "colour", "background", "texture", "position", "style")
}


def _code(head: str, value: str) -> int:
    return _CODES[head].setdefault(value, len(_CODES[head]))


def _said(drawing: Drawing, rng: np.random.Generator, drop: float) -> tuple[str, list[int]]:
    """A caption and the code of each attribute it states (-1: not stated)."""
    noun = _noun(drawing.shape)
    keep = {name: bool(rng.random() >= drop) for name in HEADS}
    style = True
    if drop and noun != CLASS_WORD and rng.random() < 0.6:
        # the bare name: what is drawn must weigh more in the image vector than its colours
        keep, style = {name: name == "shape" for name in HEADS}, False
    spoken = drawing if style else replace(drawing, style="")
    word = _style_word(drawing.style) if spoken.style else None
    text = describe(spoken, keep, int(rng.integers(N_TEMPLATES)), noun if keep["shape"] else CLASS_WORD, word)
    stated = dict(keep, shape=keep["shape"] and noun != CLASS_WORD, style=style)
    codes = [_code(name, value) if stated[name] else -1 for name, value in drawing.attributes.items()]
    return text, codes


def _batch(rng: np.random.Generator) -> tuple[np.ndarray, list[str], torch.Tensor, torch.Tensor]:
    """Pixels, captions, the truth matrix (captions x drawings: does it hold?) and attribute codes (N, 6)."""
    drawings = [d for _ in range(GROUPS) for d in _group(rng)]
    pairs = [_said(d, rng, 0.0 if rng.random() < 0.55 else 0.3) for d in drawings]
    actual = np.array([[_code(n, v) for n, v in d.attributes.items()] for d in drawings])
    stated = np.array([codes for _, codes in pairs])
    holds = ((stated[:, None] == actual[None]) | (stated[:, None] < 0)).all(-1)
    return data.stack(drawings), [text for text, _ in pairs], torch.from_numpy(holds), torch.from_numpy(actual)


def _soften(x: torch.Tensor) -> torch.Tensor:
    """Light blur and noise on a random half, so that generated pictures are no foreign ground."""
    F = torch.nn.functional
    mask = (torch.rand(len(x), 1, 1, 1) < 0.4).float()
    x = x + mask * (F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1) - x)
    return x + (torch.rand(len(x), 1, 1, 1) < 0.5).float() * 0.2 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)


def train(out: Path = CLIP, seed: int = 0, steps: int = STEPS, log: float = 60.0) -> None:
    """Contrastive with several positives per row: every drawing for which the caption holds counts as one."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 21)
    model = build()
    with torch.no_grad():
        model.token_embedding.weight.normal_(std=0.3)
        model.positional_embedding.normal_(std=0.1)
        model.logit_scale.fill_(float(np.log(1 / 0.1)))
    # linear classifiers on the image vector, thrown away afterwards: alone, the contrastive loss
    # lives on colour and background for long and finds shape and position late
    aids = torch.nn.ModuleDict({name: torch.nn.Linear(MODEL_CFG["embed_dim"], 320) for name in _CODES})
    embedding = [model.token_embedding.weight]
    rest = [p for n, p in model.named_parameters() if n != "token_embedding.weight"] + list(aids.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": rest, "weight_decay": 0.02}, {"params": embedding, "weight_decay": 0.0}], RATE, betas=(0.9, 0.98)
    )
    start, last = time.time(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * step / steps)))
        pixels, texts, holds, codes = _batch(rng)
        model.train()
        raw = model.encode_image(_soften(to_input(pixels)))
        image = torch.nn.functional.normalize(raw, dim=-1)
        text = torch.nn.functional.normalize(model.encode_text(tokenise(texts)), dim=-1)
        logits = model.logit_scale.exp().clamp(max=60) * text @ image.T
        target = holds.float()
        rows = target / target.sum(1, keepdim=True)
        columns = target / target.sum(0, keepdim=True)
        loss = -(rows * logits.log_softmax(1)).sum(1).mean() / 2 - (columns * logits.log_softmax(0)).sum(0).mean() / 2
        aid = sum(
            (2.0 if name == "shape" else 0.6) * torch.nn.functional.cross_entropy(aids[name](raw), codes[:, k])
            for k, name in enumerate(_CODES)
        )
        optimizer.zero_grad()
        (loss + 0.3 * (1 - 0.9 * step / steps) * aid).backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        optimizer.step()
        if time.time() - last > log:
            last = time.time()
            swaps = swap_accuracy(model, 150)
            print(
                f"clip {step + 1}/{steps} {last - start:.0f} s loss {loss.item():.3f} swaps",
                " ".join(f"{k} {v:.2f}" for k, v in swaps.items()),
                flush=True,
            )
    save(model, out)
    print(f"clip done in {time.time() - start:.0f} s", flush=True)
    print("swaps", swap_accuracy(model, 400), "cosines", cosines(model), flush=True)


# ---------------------------------------------------------------- gates


def swap_accuracy(model: torch.nn.Module, count: int = 400, seed: int = 99) -> dict[str, float]:
    """Share of new drawings whose true caption beats every caption with that one word changed."""
    rng = np.random.default_rng(seed)
    drawings = [sample(rng) for _ in range(count)]
    images = embed_images(model, data.stack(drawings))
    out = {}
    for head, values in HEADS.items():
        texts = [
            describe(replace(d, **{head: v}), template=k % N_TEMPLATES) for k, d in enumerate(drawings) for v in values
        ]
        scores = np.einsum("nd,nvd->nv", images, embed_texts(model, texts).reshape(count, len(values), -1))
        truth = np.array([values.index(getattr(d, head)) for d in drawings])
        out[head] = float((scores.argmax(1) == truth).mean())
    return out


def cosines(model: torch.nn.Module, count: int = 60, seed: int = 98) -> dict[str, float]:
    """Mean image cosines that the fidelity metrics read: within a held-out concept and against others."""
    rng = np.random.default_rng(seed)
    concept = {s: embed_images(model, data.stack([sample(rng, (s,)) for _ in range(count)])) for s in SUBJECTS}
    base = embed_images(model, data.stack(data.base(rng, count)))
    styled = {
        s: embed_images(model, data.stack([sample(rng, style=s) for _ in range(count)])) for s in ("vlox", "grix")
    }

    def within(a: np.ndarray) -> float:
        c = a @ a.T
        return float((c.sum() - len(a)) / (len(a) * (len(a) - 1)))

    out = {"base within": within(base)}
    for name, vectors in concept.items():
        others = [concept[o] for o in SUBJECTS if o != name]
        out[f"{name} within"] = within(vectors)
        out[f"{name} vs other subjects"] = float(np.mean([(vectors @ o.T).mean() for o in others]))
        out[f"{name} vs base"] = float((vectors @ base.T).mean())
    for name, vectors in styled.items():
        out[f"{name} within"] = within(vectors)
        out[f"{name} vs base"] = float((vectors @ base.T).mean())
    return {k: round(v, 3) for k, v in out.items()}
