"""The run directory: JSON, safetensors and SVG files, written atomically, checked when read, never unpickled.

`save_result` keeps one result, `save_audit` a whole run, `open_run` reads it back.
"""

from assay.store.read import open_run
from assay.store.write import save_audit, save_result

__all__ = ["open_run", "save_audit", "save_result"]
