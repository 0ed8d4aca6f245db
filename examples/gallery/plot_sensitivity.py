"""
Condition numbers, and what an attack reaches
=============================================

How far can a small change of the input move the outputs? A limit for small changes, beside what an attack reaches.
"""

import matplotlib.pyplot as plt

import assay

subject = assay.load_subject("demo")
x = subject.data.inputs[:24]

worst = assay.sensitivity.condition_number(subject, x)
usual = assay.sensitivity.condition_number(subject, x, kind="rms")
print(f"median: worst direction {worst.median():.2f}, random direction {usual.median():.2f}")

# %%
# The same changes measured: gradient ascent on the response, at two sizes.
sizes = (0.001, 0.1)
attacked = assay.sensitivity.adversarial_response(subject, x, sizes, steps=10, random_starts=0)
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
for column, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
    axis.scatter(worst, attacked.amplification[:, column], s=18)
    axis.axline((3, 3), slope=1, color="0.6", linewidth=1)
    axis.set(xlabel="condition number", title=f"change of {size:.1%} of the input")
axes[0].set_ylabel("strongest response found / size")

# %%
# At 0.1 % the points lie on the line: the limit holds. At 10 % the attack goes past it for some inputs, which is why
# a condition number is graded *linearised* and is no bound.
plt.show()
