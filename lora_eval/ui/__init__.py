"""The two tabs. No logic lives here: what they do is :mod:`lora_eval.ui.controller`."""
