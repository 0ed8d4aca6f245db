"""How well the plan of a filtering sweep foresees its time: the estimate made beforehand over the time it then took.

Networks of several sizes with random weights (time does not depend on them) and the digits demo; every mode. The peak
memory of the process after each run stands beside the memory of one forward pass of one batch.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import torch
from _common import OUT, Table, arguments_of
from torch import nn

from assay.filtering import FilteringConfig, analyse, job_of
from assay.filtering.estimate import estimated
from assay.load import load_subject
from assay.subject import Subject


def networks(quick: bool) -> dict[str, Subject]:
    found = {"digits demo": load_subject("demo")}
    if quick:
        return found
    import torchvision

    generator = torch.Generator().manual_seed(0)
    for name, count, size in (("resnet18", 64, 32), ("squeezenet1_1", 16, 96), ("shufflenet_v2_x1_0", 64, 32)):
        torch.manual_seed(0)
        network: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=10).eval()
        x = torch.rand((count, 3, size, size), generator=generator)
        y = network(x).argmax(1)
        found[f"{name}, {count} pictures of {size} px"] = Subject.from_model(network, (x, y))
    return found


def main(given: list[str] | None = None) -> None:
    arguments = arguments_of(argparse.ArgumentParser(description=__doc__), given)
    table = Table(
        "Planned over real time of a sweep",
        ("network", "mode", "planned s", "real s", "planned / real", "peak MB"),
    )
    for name, subject in networks(arguments.quick).items():
        for mode in ("static", "screen") if arguments.quick else ("static", "adaptive", "screen"):
            config = FilteringConfig(mode=mode, epsilon=0.01, n=9, inputs=500)
            planned = estimated(job_of(subject, config)).seconds
            begun = time.perf_counter()
            analyse(subject, config=config)
            real = time.perf_counter() - begun
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            table.add(name, mode, f"{planned:.1f}", f"{real:.1f}", f"{planned / real:.2f}", f"{peak:.0f}",
                      ratio=planned / real)  # fmt: skip
    path = arguments.out or OUT / "filtering_plan.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(table.rows, indent=1))


if __name__ == "__main__":
    main()
