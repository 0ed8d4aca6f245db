"""
A number of bits for every layer
================================

The same average number of bits, spread by what each layer does to the outputs, and really run.
"""

import matplotlib.pyplot as plt

import assay

subject = assay.load_subject("demo")
budgets = (3.5, 4, 4.5, 5, 6)
plans = [assay.sensitivity.bit_widths(subject, budget=budget) for budget in budgets]

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for layer in plans[0].bits:
    axes[0].plot(budgets, [plan.bits[layer] for plan in plans], marker="o", label=layer)
axes[0].set(xlabel="average bits per weight", ylabel="bits of the layer")
axes[0].legend()
axes[1].semilogy(budgets, [plan.verified.relative_error for plan in plans], marker="o", label="the plan, run for real")
axes[1].semilogy(budgets, [plan.predicted for plan in plans], marker="x", linestyle="--", label="predicted")
axes[1].set(xlabel="average bits per weight", ylabel="relative error of the outputs")
axes[1].legend()
plt.show()
