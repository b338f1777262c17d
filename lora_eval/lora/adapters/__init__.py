"""What each format of adapter does to the weight of a layer; one file a format.

A format is a name, the tensors that it needs, and its change of the weight. Which part of a file is which format is
decided in :mod:`lora_eval.lora.adapters.formats`. Formulas are those of the programs that write the files, as
AUTOMATIC1111 1.10 applies them (extensions-builtin/Lora/network_*.py); ``tests/lora/test_adapters.py`` checks each
against the package ``lycoris-lora``.
"""
