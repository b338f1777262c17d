"""Prompts to cross-attention states, chunk by chunk as the WebUI does.

The standalone host reads prompts as plain text: it has no emphasis syntax, so parentheses and
brackets are characters like any other. A prompt longer than the text encoder is cut into chunks of
``positions - 2`` tokens (75 on the real CLIP), each encoded by itself and joined along the tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lora_eval.host.protocol import Conditioning
from lora_eval.host.standalone.model import LoadedModel

_REMEMBERED = 512
_SIZE_IDS = 6


@dataclass(frozen=True)
class EncodedText:
    """One prompt: ``context`` (chunks * positions, D); ``pooled`` (P,) for SDXL, else None."""

    context: torch.Tensor
    pooled: torch.Tensor | None


class TextCache:
    """Encodes each prompt by itself, so that its states never depend on its neighbours, and remembers them.

    ``variant`` names what else changes the encoder (a text-encoder LoRA and its weight); prompts
    encoded under one variant are not given out under another.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._known: OrderedDict[tuple[Hashable, ...], EncodedText] = OrderedDict()
        self.variant: Hashable = None

    def keys(self) -> set[tuple[Hashable, ...]]:
        """What is remembered now, for :meth:`keep_only`."""
        return set(self._known)

    def keep_only(self, keys: set[tuple[Hashable, ...]]) -> None:
        """Forget every prompt that is not among ``keys``, so that its states leave the device's memory."""
        for key in [key for key in self._known if key not in keys]:
            del self._known[key]

    def chunks(self, text: str) -> int:
        """Number of chunks the prompt takes; at least 1."""
        pairs = zip(self._model.tokenizers, self._model.text_encoders, strict=True)
        return max(1, *(-(-len(_tokens(tokenizer, text)) // _content(encoder)) for tokenizer, encoder in pairs))

    def get(self, text: str, chunks: int, clip_skip: int = 1, negative: bool = False) -> EncodedText:
        """States of one prompt padded with empty chunks to ``chunks``. Ordinary tensors without grad."""
        zeros = negative and not text.strip() and self._model.zero_empty_negative
        key = (text, chunks, clip_skip, zeros, self.variant)
        found = self._known.get(key)
        if found is None:
            with torch.inference_mode(False), torch.no_grad():
                found = _encode(self._model, text, chunks, clip_skip)
            if zeros:
                pooled = None if found.pooled is None else torch.zeros_like(found.pooled)
                found = EncodedText(torch.zeros_like(found.context), pooled)
            self._known[key] = found
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return found


def conditioning(rows: Sequence[EncodedText], width: int, height: int) -> Conditioning:
    """Stack encoded prompts of equal length.

    ``vector`` (SDXL): the pooled text and then the six size numbers as they are (original height and
    width, crop top and left, target height and width); float32, since sizes do not fit half precision.
    """
    context = torch.stack([row.context for row in rows])
    if rows[0].pooled is None:
        return Conditioning(context)
    pooled = torch.stack([row.pooled for row in rows if row.pooled is not None]).float()
    sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=pooled.device)
    return Conditioning(context, torch.cat([pooled, sizes.expand(len(rows), _SIZE_IDS)], dim=1))


def unet_arguments(cond: Conditioning, dtype: torch.dtype) -> dict[str, Any]:
    """The text arguments of diffusers' ``UNet2DConditionModel.forward``."""
    arguments: dict[str, Any] = {"encoder_hidden_states": cond.context.to(dtype)}
    if cond.vector is not None:
        arguments["added_cond_kwargs"] = {
            "text_embeds": cond.vector[:, :-_SIZE_IDS].to(dtype),
            "time_ids": cond.vector[:, -_SIZE_IDS:],
        }
    return arguments


def _encode(model: LoadedModel, text: str, chunks: int, clip_skip: int) -> EncodedText:
    states = []
    pooled: torch.Tensor | None = None
    for tokenizer, encoder in zip(model.tokenizers, model.text_encoders, strict=True):
        ids = torch.tensor(_chunked(tokenizer, encoder, text, chunks), device=model.device)
        output = encoder(ids, output_hidden_states=True, return_dict=True)
        if model.info.family == "sdxl":
            # SDXL was trained on the penultimate layer as it is, without the final norm
            hidden = output.hidden_states[-2]
            if getattr(output, "text_embeds", None) is not None:
                pooled = output.text_embeds[0]
        elif model.info.family == "sd2" or clip_skip <= 1:
            # the text encoder of SD2 checkpoints ends at the penultimate layer already
            hidden = output.last_hidden_state
        else:
            inner = getattr(encoder, "text_model", encoder)
            layer = min(clip_skip, len(output.hidden_states) - 1)
            hidden = inner.final_layer_norm(output.hidden_states[-layer])
        states.append(hidden.reshape(-1, hidden.shape[-1]))
    return EncodedText(torch.cat(states, dim=1), pooled)


def _content(encoder: Any) -> int:
    return int(encoder.config.max_position_embeddings) - 2


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])


def _chunked(tokenizer: Any, encoder: Any, text: str, chunks: int) -> list[list[int]]:
    """(chunks, positions) token ids: start, content, end, padding."""
    size = _content(encoder)
    ids = _tokens(tokenizer, text)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = []
    for index in range(chunks):
        content = ids[index * size : (index + 1) * size]
        row = [tokenizer.bos_token_id, *content, end]
        rows.append(row + [end if pad is None else pad] * (size + 2 - len(row)))
    return rows
