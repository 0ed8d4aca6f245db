"""Models and data from files and names.

`load_subject` and `load_data` are the entry points; `trust.py` is the only place that decides whether code may run;
`models.py` knows the forms of models, `formats/` has one file per form of data.
"""

from assay.load.data import load_data
from assay.load.models import load_model
from assay.load.subject import load_subject

__all__ = ["load_data", "load_model", "load_subject"]
