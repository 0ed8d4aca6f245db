"""
Predicted moments against sampling
==================================

Gaussian noise on every pixel: mean and deviation of the outputs, computed and sampled.
"""

import matplotlib.pyplot as plt
import torch

import assay

subject = assay.load_subject("demo")
x = subject.data.inputs[:4]

# %%
# The mean and covariance come from closed forms, layer by layer. Their grade says what that rests on.
predicted = assay.moments.propagate(subject, x, 0.1**2)
print(predicted.grade.label, "-", predicted.grade.meaning)

# %%
# 2,000 noisy copies of each input say what really happens.
generator = torch.Generator().manual_seed(0)
noisy = x[:, None] + 0.1 * torch.randn(4, 2000, *x.shape[1:], generator=generator, dtype=x.dtype)
outputs = subject.probe(noisy.flatten(0, 1)).unflatten(0, (4, 2000))

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
pairs = [(predicted.mean, outputs.mean(1)), (predicted.variance.sqrt(), outputs.std(1))]
for axis, title, (computed, sampled) in zip(axes, ["mean of an output", "deviation of an output"], pairs, strict=True):
    axis.scatter(sampled.flatten(), computed.flatten(), s=18)
    axis.axline((float(sampled.mean()),) * 2, slope=1, color="0.6", linewidth=1)
    axis.set(xlabel="sampled", ylabel="computed", title=title)

# %%
# From moments to decisions: which pictures would flip, and at which noise?
levels = (0.02, 0.05, 0.1, 0.2, 0.3)
flips = torch.stack([assay.moments.flip_probability(subject, x, level**2).flip for level in levels])
figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
axis.plot(levels, flips, marker="o")
axis.set(xlabel="deviation of the noise", ylabel="probability of another decision")
axis.legend([f"a {int(label)}" for label in subject.probe(x).argmax(1)])
plt.show()
