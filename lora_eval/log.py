"""One logger for the whole package, silent until the program that uses it asks for more."""

import logging

logger = logging.getLogger("lora_eval")
logger.addHandler(logging.NullHandler())
