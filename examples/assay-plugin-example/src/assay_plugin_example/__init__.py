"""An example of everything that another package can add to assay.

`dead_zone.py` is the user's own code: a custom torch operator and a layer. `operator.py` tells assay what it means,
`rule.py` how Gaussian noise passes it, `occlusion.py` and `blanking.py` are an analysis, `annotations.py` is an export
format, and `network.py` makes a network to try it all on.
"""
