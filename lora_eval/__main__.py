"""``python -m lora_eval``."""

import sys

from lora_eval.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
