"""LoRA Eval: train a LoRA on the model in memory, and say with numbers whether it is good.

The package imports without a WebUI and without torch being touched; the heavy parts load when used.
"""

__version__ = "0.1.0"
