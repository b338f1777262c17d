"""Stable Diffusion by diffusers, without a WebUI."""

from lora_eval.host.standalone.host import StandaloneHost, default_model

__all__ = ["StandaloneHost", "default_model"]
