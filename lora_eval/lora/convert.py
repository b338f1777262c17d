"""Other spellings of LoRA files -> kohya keys.

Understood: kohya (``lora_unet_...lora_down.weight``), diffusers and peft
(``unet.<path>.lora_A.weight``, ``base_model.model.<path>.lora_A.default.weight``,
``<path>.lora.down.weight``, ``<path>.lora_linear_layer.down.weight``) and the attention processors of
early diffusers (``<path>.processor.to_q_lora.down.weight``).

Other kinds of adapters are refused by name: what they do to a layer is not ``up @ down``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lora_eval.errors import LoraFileError
from lora_eval.lora.match import ALPHA, DOWN, UP
from lora_eval.lora.names import kohya_name

if TYPE_CHECKING:
    import torch

_OTHER_KINDS = (
    (r"(^|\.)hada_[wt]\d", "LoHa"),
    (r"(^|\.)lokr_[wt]\d", "LoKr"),
    (r"(^|\.)(dora_scale|lora_magnitude_vector)", "DoRA"),
    (r"(^|\.)oft_|^oft_", "OFT"),
    (r"\.(a1|a2|b1|b2)\.weight$", "GLoRA"),
    (r"\.lora_mid\.weight$", "CP-decomposed LoCon (lora_mid)"),
    (r"\.(diff|diff_b)$", "full difference weights (.diff)"),
    (r"\.(w_norm|b_norm)$", "norm difference weights (w_norm)"),
    (r"\.on_input$", "IA3"),
    (r"^bundle_emb\.", "bundled textual inversion (bundle_emb)"),
    (r"\.lora_[AB](\.\w+)?\.bias$|lora_(up|down)\.bias$", "LoRA with bias"),
)
_OTHER_MODELS = (
    (r"(^|[._])(double_blocks|single_blocks|single_transformer_blocks)[._]", "Flux"),
    (r"(^|[._])joint_blocks[._]", "Stable Diffusion 3"),
    (r"^(transformer|base_model\.model\.transformer_blocks)\.", "a transformer model (Flux, SD3 or another)"),
)
_HALVES = (
    (re.compile(r"^(.+)\.lora_A(?:\.\w+)?\.weight$"), DOWN),
    (re.compile(r"^(.+)\.lora_B(?:\.\w+)?\.weight$"), UP),
    (re.compile(r"^(.+)\.(?:lora|lora_linear_layer)\.down\.weight$"), DOWN),
    (re.compile(r"^(.+)\.(?:lora|lora_linear_layer)\.up\.weight$"), UP),
    (re.compile(r"^(.+?)\.(?:processor\.)?(to_[qkv]|to_out)_lora\.down\.weight$"), DOWN),
    (re.compile(r"^(.+?)\.(?:processor\.)?(to_[qkv]|to_out)_lora\.up\.weight$"), UP),
    (re.compile(r"^(.+)\.lora_down\.weight$"), DOWN),
    (re.compile(r"^(.+)\.lora_up\.weight$"), UP),
    (re.compile(r"^(.+)\.alpha$"), ALPHA),
)
_KOHYA = re.compile(r"^lora_(unet|te\d?)_[^.]+\.(lora_down\.weight|lora_up\.weight|alpha)$")
_PARTS = ("unet", "text_encoder", "text_encoder_2")


def unsupported_kind(keys: Iterable[str]) -> tuple[str, str] | None:
    """(name of the format, first such key) when the keys are not plain LoRA, else None."""
    for key in keys:
        for pattern, name in _OTHER_KINDS:
            if re.search(pattern, key):
                return name, key
    return None


def other_model(keys: Iterable[str]) -> str | None:
    """Name of the architecture when the keys are those of a model that is not SD1, SD2 or SDXL."""
    for key in keys:
        for pattern, name in _OTHER_MODELS:
            if re.search(pattern, key):
                return name
    return None


def is_kohya(key: str) -> bool:
    """Whether ``key`` is a kohya key of plain LoRA."""
    return _KOHYA.match(key) is not None


def is_lora_key(key: str) -> bool:
    """Whether ``key`` is one half of a LoRA in any spelling that is understood."""
    return is_kohya(key) or (not key.startswith("lora_") and any(p.match(key) for p, _ in _HALVES[:-1]))


def to_kohya(
    state: Mapping[str, torch.Tensor],
    family: str = "unknown",
    alphas: Mapping[str, Any] | None = None,
    where: str = "LoRA",
) -> dict[str, torch.Tensor]:
    """Rename to kohya keys. Tensors already named so keep name and bytes.

    Args:
        state: tensors under any understood spelling; the UNet's paths as in diffusers or, after
            ``diffusion_model.``, as in the original code.
        family: decides how UNet layers are spelt (see :mod:`lora_eval.lora.names`).
        alphas: peft settings by part, ``{"unet": {"r": 8, "lora_alpha": 16, ...}}`` as
            :func:`peft_settings` reads them. Without any, alpha is the rank (scale 1), as in diffusers.
        where: what to call the source in errors.

    Returns:
        ``lora_unet_...`` and, for text encoders, ``lora_te_``, ``lora_te1_``, ``lora_te2_`` keys.

    Raises:
        LoraFileError: a format other than plain LoRA (named), a key of no known spelling, or a
            layer that no UNet of SD1, SD2 or SDXL has.
    """
    import torch

    kind = unsupported_kind(state)
    if kind is not None:
        raise LoraFileError(f"{where}: {kind[0]} is not supported (key {kind[1]!r}); expected plain LoRA")
    if any(settings.get("use_dora") for settings in (alphas or {}).values()):
        raise LoraFileError(f"{where}: DoRA is not supported (use_dora in its peft settings); expected plain LoRA")
    numbered = family == "sdxl" or has_second_encoder(state)
    result: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if is_kohya(key):
            new = key
        else:
            found = _peft_key(key, key, family, numbered, where)
            new = f"{found.name}.{found.ending}"
            named = f"{key.rsplit('.lora', 1)[0]}{ALPHA}" in state
            if new.endswith(DOWN) and alphas and found.part in alphas and not named:
                alpha = peft_alpha(alphas[found.part], found.path, int(value.shape[0]))
                result[found.name + ALPHA] = torch.tensor(alpha, dtype=torch.float32)
        if new in result and not new.endswith(ALPHA):
            raise LoraFileError(f"{where}: {key!r} and another key both name {new}")
        result[new] = value
    return result


class PeftKey(NamedTuple):
    """A key of peft's or diffusers' spelling: kohya name, what the tensor is there, and its part and path."""

    name: str
    ending: str
    part: str
    path: str


def has_second_encoder(state: Iterable[str]) -> bool:
    """Whether any key is of a second text encoder, which files of SDXL have."""
    return any(key.startswith("text_encoder_2.") for key in state)


def read_peft_key(key: str, family: str, numbered: bool, where: str = "LoRA") -> PeftKey | None:
    """A key in peft's or diffusers' spelling; None where it names no layer.

    Beside the halves of LoRA, peft's DoRA magnitude is read: ``lora_magnitude_vector`` becomes ``dora_scale``.

    Args:
        numbered: whether text encoders are named by number (``lora_te1_``), as in files of SDXL.
    """
    plain = re.sub(r"\.lora_magnitude_vector(\.\w+)?(\.weight)?$", ".lora_A.weight", key)
    try:
        found = _peft_key(plain, key, family, numbered, where)
    except LoraFileError:
        return None
    return found if plain == key else found._replace(ending="dora_scale")


def _peft_key(plain: str, key: str, family: str, numbered: bool, where: str) -> PeftKey:
    """``plain`` taken apart and named; ``key`` is what errors call it. Raises LoraFileError."""
    part, path, ending = _split(plain, where)
    name = _unet_name(path, family, key, where) if part == "unet" else _text_name(part, path, numbered)
    return PeftKey(name, ending[1:], part, path)


def _split(key: str, where: str) -> tuple[str, str, str]:
    """(part, dotted path, kohya ending)."""
    for pattern, ending in _HALVES:
        found = pattern.match(key)
        if not found:
            continue
        path = found[1]
        if found.lastindex == 2:
            path += ".to_out.0" if found[2] == "to_out" else f".{found[2]}"
        path = path.removeprefix("base_model.model.")
        for part in _PARTS:
            if path.startswith(part + "."):
                return part, path[len(part) + 1 :].removeprefix("base_model.model."), ending
        if re.match(r"(text_model|encoder)\.", path):
            return "text_encoder", path, ending
        return "unet", path.removeprefix("diffusion_model."), ending
    raise LoraFileError(f"{where}: unexpected key {key!r}; expected kohya, diffusers or peft names of plain LoRA")


def _unet_name(path: str, family: str, key: str, where: str) -> str:
    layout = "ldm" if re.match(r"(input_blocks|middle_block|output_blocks|out|time_embed|label_emb)\.", path) else ""
    try:
        return kohya_name(path, layout or "diffusers", family)
    except LoraFileError:
        raise LoraFileError(f"{where}: {key!r} names no layer of an SD1, SD2 or SDXL UNet") from None


def _text_name(part: str, path: str, numbered: bool) -> str:
    prefix = "lora_te2_" if part == "text_encoder_2" else ("lora_te1_" if numbered else "lora_te_")
    path = path if path.startswith("text_model.") else f"text_model.{path}"
    # early diffusers used the UNet's names for the text encoder's projections too
    path = re.sub(r"self_attn\.to_([qkv])$", r"self_attn.\1_proj", path)
    path = re.sub(r"self_attn\.to_out(\.0)?$", "self_attn.out_proj", path)
    return prefix + path.replace(".", "_")


def peft_alpha(settings: Mapping[str, Any], path: str, rank: int) -> float:
    """A layer's alpha by peft's settings of its part, with patterns and rsLoRA's scale."""
    alpha = float(_by_pattern(settings.get("alpha_pattern"), path, settings.get("lora_alpha", rank)))
    return alpha * rank**0.5 if settings.get("use_rslora") else alpha


def _by_pattern(patterns: Any, path: str, default: Any) -> Any:
    """peft's rule: a pattern names a module by the end of its path, or is a regular expression for it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def peft_settings(metadata: Mapping[str, str], adapter_config: str | None = None) -> dict[str, dict[str, Any]]:
    """peft's alphas: from diffusers' ``lora_adapter_metadata`` or from ``adapter_config.json``.

    Args:
        metadata: the safetensors file's.
        adapter_config: text of the ``adapter_config.json`` beside a peft file, None without one.

    Returns:
        Part (``unet``, ``text_encoder``, ``text_encoder_2``) -> settings; empty where nothing is known.

    Raises:
        LoraFileError: the text is not JSON.
    """
    result: dict[str, dict[str, Any]] = {}
    try:
        packed = json.loads(metadata.get("lora_adapter_metadata") or "{}")
        config = json.loads(adapter_config or "{}")
    except json.JSONDecodeError as error:
        raise LoraFileError(f"LoRA settings of peft are not valid JSON ({error}); save the LoRA again") from None
    for key, value in packed.items():
        part, _, name = key.partition(".")
        if part in _PARTS and name:
            result.setdefault(part, {})[name] = value
    if config and not result:
        result = {part: config for part in _PARTS}
    return result
