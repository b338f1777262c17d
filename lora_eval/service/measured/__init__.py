"""Score pictures that were drawn elsewhere: a folder of a WebUI's or ComfyUI's, a table, an X/Y/Z plot."""

from lora_eval.service.measured.rows import PictureRow
from lora_eval.service.measured.run import MeasureRequest, measure_again, measure_table

__all__ = ["MeasureRequest", "PictureRow", "measure_again", "measure_table"]
