"""One file per data format; each registers itself with `assay.load.registry.data_format`.

To add a format, put a file here: a function from `DataRequest` to `Data`, decorated with the form it reads.
"""
