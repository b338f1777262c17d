"""The one file that the WebUI loads; everything else is in the package beside this folder."""

from modules import scripts

from lora_eval.extension import callbacks

callbacks.register(scripts.basedir())
