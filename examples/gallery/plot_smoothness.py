"""
Kinks along a path, and where they come from
============================================

A picture shifts by one pixel. The outputs follow with jumps of their slope; which layer makes them?
"""

import matplotlib.pyplot as plt
import torch

import assay
from assay import smoothness

subject = assay.load_subject("demo")
path = smoothness.Transform(subject.data.inputs[0], "translate", 1.0)
found = smoothness.smp(subject, path, estimator="event", outputs=[0, 1, 2])
print(
    f"{found.count:.0f} kinks; sum of the slope jumps of three outputs: {[round(v, 1) for v in found.value.tolist()]}"
)

# %%
# The slope of an output against the shift, and the share of every layer in the sum.
times = torch.linspace(path.start, path.end, 400, dtype=torch.float64)
outputs = subject.probe(path.at(times)[0].to(subject.data.inputs.dtype)).double()
slopes = outputs.diff(dim=0) / (times[1] - times[0])
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
axes[0].plot(times[:-1], slopes[:, :3], linewidth=1)
axes[0].set(xlabel="shift in pixels", ylabel="slope of an output")
shares = {layer: float(value.sum()) for layer, value in found.by_layer.items()}
axes[1].barh(list(shares), list(shares.values()))
axes[1].invert_yaxis()
axes[1].set(xlabel="sum of slope jumps")
plt.show()
