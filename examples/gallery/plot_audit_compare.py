"""
Two audits, compared
====================

A network before and after rounding its weights to 3 bits: what got worse, and does the evidence carry it?
"""

import copy

import matplotlib.pyplot as plt
import torch

import assay
from assay.comparing import compare

subject = assay.load_subject("demo", limit=100)
worse = copy.deepcopy(subject.model)
with torch.no_grad():
    for weights in worse.parameters():
        step = weights.abs().max() / 3
        weights.copy_((weights / step).round() * step)
changed = assay.Subject.from_model(worse, subject.data, name="rounded")

# %%
# One part of an audit for each, with the same settings.
config = assay.AuditConfig.model_validate(
    {"sensitivity": {"inputs": 32, "sections": [], "attack_steps": 5, "random_directions": 20}}
)
before, after = (assay.audit(each, only=["sensitivity"], config=config) for each in (subject, changed))
x, y = subject.data.inputs, subject.data.targets
print([f"accuracy {float((each.probe(x).argmax(1) == y).double().mean()):.0%}" for each in (subject, changed)])

# %%
# The comparison is a result like any other: tables, findings, a report. It tests every quantity that both have.
difference = compare(before, after)
for finding in difference.findings[:3]:
    print(finding.status.value, "-", finding.sentence)

# %%
# The rounded network is less accurate, and it answers small changes *less* strongly: sensitivity alone does not make
# a network good. An audit of everything has the accuracy beside it.
#
# Input by input, from the tables that both audits keep.
kappa = [run.results["sensitivity"].tables["inputs"].to_frame()["condition_number"] for run in (before, after)]
figure, axis = plt.subplots(figsize=(5, 4.5), layout="constrained")
axis.scatter(*kappa, s=18)
axis.axline((3, 3), slope=1, color="0.6", linewidth=1)
axis.set(xlabel="condition number before", ylabel="after rounding to 3 bits")
plt.show()
