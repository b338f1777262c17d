"""CLIP's byte-pair tokenizer pruned to the words that the captions use."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path

from .drawings import BACKGROUNDS, CLASS_WORD, COLOURS, POSITIONS, SHAPES, STYLE_CLASS_WORD, TEXTURES

MAX_LENGTH = 16
"""Text positions, begin and end token included; 77 cost as much as the UNet itself."""

WORDS = (
    *SHAPES,
    *COLOURS,
    *BACKGROUNDS,
    *TEXTURES,
    *POSITIONS,
    CLASS_WORD,
    STYLE_CLASS_WORD,
    *[
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "and",
        "with",
        "background",
        "style",
        "picture",
        "photo",
        "painting",
        "image",
        "white",
        "black",
        ",",
        ".",
    ],
)


def _byte_alphabet() -> list[str]:
    """CLIP's 256 printable stand-ins for bytes, in its vocabulary order."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + n) for n in range(len(extra))]


def _merges() -> list[tuple[str, str]]:
    import open_clip

    path = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    return [(a, b) for a, b in (line.split() for line in lines)]


def used_merges(words: tuple[str, ...] = WORDS) -> list[tuple[str, str]]:
    """Those of CLIP's merges that spelling the words applies, in CLIP's order."""
    rank = {pair: n for n, pair in enumerate(_merges())}
    used: set[tuple[str, str]] = set()
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            best = min(pairwise(pieces), key=lambda pair: rank.get(pair, 1 << 30))
            if best not in rank:
                break
            used.add(best)
            at = next(n for n, pair in enumerate(pairwise(pieces)) if pair == best)
            pieces[at : at + 2] = ["".join(best)]
    return sorted(used, key=rank.__getitem__)


def write(out: Path) -> int:
    """Write vocab.json, merges.txt and the two configs; returns the vocabulary size.

    All four by hand: transformers 5 would save tokenizer.json only, which older CLIPTokenizer cannot read.
    """
    out.mkdir(parents=True, exist_ok=True)
    alphabet, merges = _byte_alphabet(), used_merges()
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: n for n, token in enumerate(tokens)}
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (out / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "do_lower_case": True,
        "errors": "replace",
        "add_prefix_space": False,
        **special,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return len(vocab)


def longest(tokenizer: object, captions: list[str]) -> int:
    """Token count, begin and end included, of the longest caption."""
    return max(len(ids) for ids in tokenizer(captions)["input_ids"])  # type: ignore[operator]


__all__ = ["MAX_LENGTH", "WORDS", "longest", "used_merges", "write"]
