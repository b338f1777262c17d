"""Train the UNet together with its text encoder on the base domain, and draw with them."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import data, vae
from .drawings import caption
from .export import SD, save_half
from .tokenizer import MAX_LENGTH

DRAWINGS, CAPTIONS = 14000, 3
STEPS, BATCH, RATE = 2200, 128, 2e-3


def build_text(vocabulary: int) -> CLIPTextModel:
    """Two-layer CLIP text encoder; token embedding drawn wide so that words differ from step 0."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=256,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    text = CLIPTextModel(config)
    embeddings = dict(text.named_modules()).get("text_model.embeddings") or dict(text.named_modules())["embeddings"]
    torch.nn.init.normal_(embeddings.token_embedding.weight, std=0.7)
    torch.nn.init.normal_(embeddings.position_embedding.weight, std=0.2)
    return text


def build_unet() -> UNet2DConditionModel:
    """SD1's block layout; ``attention_head_dim`` means two heads here, as in SD1 it means eight."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(48, 64, 64, 64),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=64,
    )


def scheduler() -> DDIMScheduler:
    """SD1's noise schedule, epsilon-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def save(text: CLIPTextModel, unet: UNet2DConditionModel, out: Path = SD) -> None:
    """Write everything of the pipeline except VAE and tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    save_half(unet, out / "unet")
    save_half(text, out / "text_encoder")
    # older transformers want the text_model. prefix that newer ones drop
    weights = {k: v.to(torch.float16).contiguous() for k, v in text.state_dict().items() if "position_ids" not in k}
    weights = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in weights.items()}
    save_file(weights, out / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    scheduler().save_pretrained(out / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.27.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2))


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids (N, 16), padded with the end token."""
    out = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    return out.input_ids


@torch.no_grad()
def encode_latents(autoencoder: AutoencoderKL, pixels: np.ndarray) -> torch.Tensor:
    """Posterior means times the scaling factor, (N, 4, 8, 8)."""
    chunks = np.array_split(pixels, max(1, len(pixels) // 64))
    z = torch.cat([autoencoder.encode(vae.to_unit(c)).latent_dist.mode() for c in chunks])
    return z * vae.SCALING


def _ema(target: torch.nn.Module, source: torch.nn.Module, decay: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), 1 - decay)


def train(
    out: Path = SD,
    seed: int = 0,
    steps: int = STEPS,
    compile_unet: bool = False,
    first_export: int = 500,
    log: float = 30.0,
    scratch: Path | None = None,
) -> None:
    """AdamW with min-SNR weights and stratified timesteps; saves the EMA in fp16 to ``out``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    drawings = data.base(rng, DRAWINGS)
    autoencoder = AutoencoderKL.from_pretrained(SD / "vae", torch_dtype=torch.float32).eval()
    latents = encode_latents(autoencoder, data.stack(drawings))
    tokenizer = CLIPTokenizer.from_pretrained(SD / "tokenizer")
    tokens = tokenise(tokenizer, [caption(d, rng) for d in drawings for _ in range(CAPTIONS)]).view(
        DRAWINGS, CAPTIONS, -1
    )
    empty = tokenise(tokenizer, [""])
    print(f"unet: latents mean {latents.mean():.3f} std {latents.std():.3f}", flush=True)

    text, unet = build_text(len(tokenizer)), build_unet()
    ema_text, ema_unet = copy.deepcopy(text), copy.deepcopy(unet)
    alphas = scheduler().alphas_cumprod
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=5.0) / snr
    embeddings = [p for n, p in text.named_parameters() if "embedding" in n]
    others = [p for n, p in text.named_parameters() if "embedding" not in n]
    params = [*unet.parameters(), *others]
    # no decay on embeddings: bytes that captions never use must keep their length for later triggers
    groups = [{"params": params, "weight_decay": 0.01}, {"params": embeddings, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, RATE, betas=(0.9, 0.98), foreach=True)
    forward: Callable = torch.compile(unet, dynamic=False) if compile_unet else unet
    start, last, running = time.time(), 0.0, None
    for step in range(steps):
        flat = int(0.35 * steps)
        rate = RATE * min(1, (step + 1) / 100)
        if step > flat:
            rate *= 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (step - flat) / (steps - flat)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.from_numpy(rng.integers(0, DRAWINGS, BATCH))
        ids = tokens[rows, torch.from_numpy(rng.integers(0, CAPTIONS, BATCH))]
        ids = torch.where(torch.rand(BATCH, 1) < 0.1, empty, ids)
        t = ((torch.arange(BATCH) + torch.rand(BATCH)) * (1000 / BATCH)).long().clamp(max=999)
        noise = torch.randn(BATCH, 4, 8, 8)
        a = alphas[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * latents[rows] + (1 - a).sqrt() * noise
        predicted = forward(noisy, t, text(ids).last_hidden_state, return_dict=False)[0]
        loss = (weight[t] * (predicted - noise).pow(2).mean(dim=(1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*params, *embeddings], 1.0)
        optimizer.step()
        decay = min(0.998, (step + 1) / (step + 20))
        _ema(ema_unet, unet, decay)
        _ema(ema_text, text, decay)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if time.time() - last > log:
            last = time.time()
            print(f"unet {step + 1}/{steps} {last - start:.0f} s loss {running:.4f}", flush=True)
        if step + 1 == first_export or (scratch and (step + 1) % 250 == 0):
            save(ema_text, ema_unet, out if step + 1 == first_export else scratch or out)
    save(ema_text, ema_unet, out)
    print(f"unet done in {time.time() - start:.0f} s, loss {running:.4f}", flush=True)


class Painter:
    """Draws pictures from prompts with the assets; the reference for reports and tests."""

    def __init__(self, folder: Path = SD, vae_folder: Path | None = None) -> None:
        load = {"torch_dtype": torch.float32}
        self.vae = AutoencoderKL.from_pretrained((vae_folder or folder) / "vae", **load).eval()
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", **load).eval()
        self.text = CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval()
        self.tokenizer = CLIPTokenizer.from_pretrained((vae_folder or folder) / "tokenizer")

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> torch.Tensor:
        """Last hidden states (N, 16, 64)."""
        return self.text(tokenise(self.tokenizer, prompts)).last_hidden_state

    @torch.no_grad()
    def draw(
        self, prompts: list[str], seed: int = 0, steps: int = 20, cfg: float = 4.0, batch: int = 24, kind: str = "ddim"
    ) -> np.ndarray:
        """uint8 (N, 3, 64, 64); noise from ``seed`` + index; ``kind`` is ddim or dpm++ (2M)."""
        pictures = []
        for at in range(0, len(prompts), batch):
            chunk = prompts[at : at + batch]
            plan = scheduler()
            if kind == "dpm++":
                from diffusers import DPMSolverMultistepScheduler

                plan = DPMSolverMultistepScheduler.from_config(plan.config, algorithm_type="dpmsolver++")
            plan.set_timesteps(steps)
            noise = [
                torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed + at + k)) for k in range(len(chunk))
            ]
            x = torch.stack(noise) * plan.init_noise_sigma
            states = torch.cat([self.embed([""] * len(chunk)), self.embed(chunk)])
            for t in plan.timesteps:
                both = self.unet(torch.cat([x, x]), t, states, return_dict=False)[0]
                plain, named = both.chunk(2)
                x = plan.step(plain + cfg * (named - plain), t, x).prev_sample
            out = self.vae.decode(x / vae.SCALING).sample
            pictures.append(((out.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())
        return np.concatenate(pictures)
