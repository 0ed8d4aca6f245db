"""
How far to the boundary
=======================

Every decision has a nearest point where it flips. Found, guaranteed, and drawn.
"""

import matplotlib.pyplot as plt
import numpy as np

import assay
from assay import boundary

subject = assay.load_subject("demo")
x = subject.data.inputs[:10]

points = boundary.boundary_point(subject, x)
certified = assay.certified.certified_radius(subject, x[:6])
for k in range(3):
    print(
        f"input {k}: no flip within {certified.radius[k]:.3f}, a flip to {points.rival[k]} at {points.distance[k]:.3f}"
    )

# %%
# The nearest changes look like nothing much.
figure, axes = plt.subplots(3, 6, figsize=(9, 4.8), layout="constrained")
for column in range(6):
    change = points.point[column, 0] - x[column, 0]
    limit = float(change.abs().max())
    axes[0, column].imshow(x[column, 0], cmap="gray", vmin=0, vmax=1)
    axes[1, column].imshow(change, cmap="RdBu", vmin=-limit, vmax=limit)
    axes[2, column].imshow(points.point[column, 0], cmap="gray", vmin=0, vmax=1)
    axes[0, column].set_title(f"a {points.label[column]}", fontsize=9)
    axes[2, column].set_title(f"almost a {points.rival[column]}", fontsize=9)
for axis in axes.flat:
    axis.set_axis_off()

# %%
# Distances found and guaranteed: the truth lies between.
figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
places = np.arange(6)
axis.bar(places, points.distance[:6], color="0.8", label="a flip was found")
axis.bar(places, certified.radius, label="no flip, guaranteed")
axis.set(xlabel="input", ylabel="distance")
axis.legend()
plt.show()
