"""Subspaces: in which directions boundaries are curved, whether inputs share them, and what noise along them does.

Profiles over data sets, shared directions, noise in subspaces with its controls, distances within random subspaces, and
flip probabilities from distance and curvature, which sampling can check.
"""

from assay.boundary.subspaces.asymmetry import Asymmetry, Bend, asymmetry, first_crossing
from assay.boundary.subspaces.bases import overlap
from assay.boundary.subspaces.estimated import FlipEstimate, flip_probability_of
from assay.boundary.subspaces.flips import FLIP_GRADES, FlipMethod, flip_probability
from assay.boundary.subspaces.noise import SubspaceNoise, subspace_noise
from assay.boundary.subspaces.profile import Profile, profile
from assay.boundary.subspaces.relative import RelativeCurvature, relative_curvature
from assay.boundary.subspaces.sampled import SampledFlips, sampled_flips
from assay.boundary.subspaces.semi_random import SemiRandom, distance_within, flat_law, semi_random
from assay.boundary.subspaces.shared import SharedDirections, gradient_subspace, shared_directions

__all__ = [
    "FLIP_GRADES",
    "Asymmetry",
    "Bend",
    "FlipEstimate",
    "FlipMethod",
    "Profile",
    "RelativeCurvature",
    "SampledFlips",
    "SemiRandom",
    "SharedDirections",
    "SubspaceNoise",
    "asymmetry",
    "distance_within",
    "first_crossing",
    "flat_law",
    "flip_probability",
    "flip_probability_of",
    "gradient_subspace",
    "overlap",
    "profile",
    "relative_curvature",
    "sampled_flips",
    "semi_random",
    "shared_directions",
    "subspace_noise",
]
