"""The errors a person can cause and mend.

Every one carries a single line: what is wrong, where, and the mend. The command line prints that
line and exits with 2; the tabs and the REST routes show the same line.
"""

from __future__ import annotations


class LoraEvalError(Exception):
    """What the user can mend. ``str(error)`` is one line: what, where, the mend."""


class ConfigError(LoraEvalError):
    """A setting is unknown, of the wrong type, or out of range."""


class NoTexts(ConfigError):
    """The encoder knows pictures alone, and texts were to be compared with them."""


class DatasetError(LoraEvalError):
    """A folder, picture or caption cannot be used."""


class LoraFileError(LoraEvalError):
    """A LoRA file is broken, of another family, or does not fit the model."""


class HostError(LoraEvalError):
    """The host cannot do what was asked (model, LoRA not applied, unsupported mode)."""


class RunError(LoraEvalError):
    """A run folder cannot be read, written or continued."""


class Interrupted(Exception):
    """The user stopped the job. Not an error: what is done so far is kept."""
