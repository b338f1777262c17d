"""LoRA layers, key names and files. Knows torch; no host, no dataset."""
