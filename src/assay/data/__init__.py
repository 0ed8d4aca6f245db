"""Files that come with the package: weights of the two demo networks.

Both were written by `tools/train_demo.py`; each file's metadata say how it was trained and what it scored.
The data are scikit-learn's (digits, diabetes) and are read from there.
"""
