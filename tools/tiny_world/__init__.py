"""The tiny world: a Stable Diffusion, a CLIP and an attribute reader trained from nothing on a CPU."""
