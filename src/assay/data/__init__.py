"""Files that come with the package: weights of the two demo networks.

Both were written by `tools/train_demo.py`, which also wrote into each file's metadata how it was trained and what it scored.
The data themselves are scikit-learn's (digits, diabetes) and are read from there.
"""
