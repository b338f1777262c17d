"""Who holds Stable Diffusion: one protocol (:mod:`lora_eval.host.protocol`) and its hosts."""
