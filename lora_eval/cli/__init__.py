"""The command line: ``python -m lora_eval`` and ``lora-eval``."""
