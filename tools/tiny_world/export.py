"""Write fp16 weights in diffusers and transformers layout."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

ASSETS = Path(__file__).resolve().parents[2] / "lora_eval" / "assets"
SD = ASSETS / "tiny-sd"
CLIP = ASSETS / "tiny-clip"
READER = ASSETS / "tiny-reader"
DATASETS = ASSETS / "datasets"


def save_half(model: torch.nn.Module, out: Path) -> None:
    """Save a copy of a diffusers or transformers model in fp16 safetensors; the model itself stays fp32."""
    half = copy.deepcopy(model).to(torch.float16, memory_format=torch.contiguous_format)
    half.save_pretrained(out, safe_serialization=True)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes 0600


def folder_size(path: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
