"""The REST routes under ``/lora-eval/v1/`` and the bodies of their requests."""
