"""How a LoRA file meets the UNet of a WebUI, beside the WebUI's own count of layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lora_eval.errors import LoraFileError
from lora_eval.lora.adapter_file import AdapterFile
from lora_eval.lora.adapter_match import LoraFit, check_family, match_adapter, unet_layers
from lora_eval.lora.match import first, is_text_encoder


def unet_fit(file: AdapterFile, unet: Any, family: str, fails: str = "") -> LoraFit:
    """How the file's UNet layers fit by their names and shapes.

    Args:
        fails: name of a host that does not pass over a layer of another shape but fails to draw.

    Raises:
        LoraFileError: another family, less than half of the layers fit, or a layer on which the host fails.
    """
    check_family(file, family)
    layers = {name: parts for name, parts in file.layers.items() if not is_text_encoder(name)}
    if not layers:
        return LoraFit(0, file.notes)
    matched = match_adapter(replace(file, layers=layers), unet_layers(unet, "ldm", family), family, merge=False)
    if fails and matched.misfits:
        lost = list(matched.misfits)
        raise LoraFileError(
            f"{file.path}: {len(lost)} layers do not fit the model, which {fails} cannot draw ({first(lost)})"
        )
    return matched.fit


def why_not(file: AdapterFile) -> str:
    """Why a WebUI may apply nothing of a file that is read here."""
    plain = all(one == "LoRA" for one in file.formats)
    if not plain:
        return f"it is {', '.join(file.formats)}, which this WebUI does not know"
    return "its keys are spelled as peft or diffusers spell them; lora-eval convert renames them"
