"""
Which layer can lose weights
============================

The weights of one layer at a time are filtered away, smallest or largest first. What is left of the accuracy?
"""

import matplotlib.pyplot as plt

import assay

subject = assay.load_subject("demo", limit=150)
found = assay.filtering.analyse(subject, mode="static", n=9, filters=("high", "low"), draws=300)

# %%
# A score compares what is left of the accuracy with what is left of the layer. Above zero: the layer can spare weights.
# The interval is a bootstrap over pictures; where it crosses a limit, the class is *undecided*.
table = found.to_frame()
chosen = table[(table["split"] == "clean") & (table["reference"] == "compressed")]
figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
for offset, (name, rows) in zip(
    (-0.15, 0.15), chosen[chosen["filter"].isin(["high", "low"])].groupby("filter"), strict=True
):
    places = [k + offset for k in range(len(rows))]
    spread = [rows["score"] - rows["low"], rows["high"] - rows["score"]]
    axis.errorbar(places, rows["score"], spread, fmt="o", label=f"{name}-pass")
    axis.set_xticks(range(len(rows)), rows["unit"])
axis.axhspan(-0.02, 0.02, color="0.9")
axis.set(ylabel="clean score")
axis.legend()
plt.show()
