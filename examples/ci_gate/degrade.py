"""Round the weights of a model to a few bits, to see a gate close: `python degrade.py IN OUT --bits 3`.

Weights of a layer share one scale, biases stay as they are. That is no way to quantise a network, which is the point.
"""

import argparse

import numpy as np
from safetensors.numpy import load_file, save_file


def rounded(weights: np.ndarray, bits: int) -> np.ndarray:
    """Weights on a symmetric grid of 2^bits - 1 values up to the largest of them."""
    scale = np.abs(weights).max() / (2 ** (bits - 1) - 1)
    return weights if scale == 0 else (np.round(weights / scale) * scale).astype(weights.dtype)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="FILE.safetensors")
    parser.add_argument("target", help="FILE.safetensors")
    parser.add_argument("--bits", type=int, default=3)
    given = parser.parse_args()
    tensors = load_file(given.source)
    save_file({k: rounded(v, given.bits) if v.ndim > 1 else v for k, v in tensors.items()}, given.target)
