"""Principal curvatures at both ends: Lanczos against the dense Hessian, and pictures of 224 x 224 in bounded memory.

Both ways run in one process, in turn, and the ratio is given as median [min - max] over repeats. Peak memory is that of
a child process which does nothing else.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from assay.boundary.field import Field
from assay.boundary.shape import curvature

ROOT = Path(__file__).resolve().parents[1]


def smooth_net(side: int) -> nn.Module:
    """SiLU convolutions on (3, side, side), random weights; four strided layers, then ten classes."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.SiLU()]
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 32), nn.SiLU(), nn.Linear(32, 10)]
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0 if parameter.dim() > 1 else 1.0)
    return network.eval().requires_grad_(False)


def residual_net() -> nn.Module:
    """Torchvision's ResNet-18 with SiLU and average pooling, random weights."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = resnet18(weights=None)
    network.maxpool = nn.AvgPool2d(3, 2, 1)  # type: ignore[assignment]
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())
    return network.eval().requires_grad_(False)


def plain_dense(network: nn.Module, x: Tensor, own: int, rival: int) -> tuple[Tensor, Tensor]:
    """The way without this library: the whole Hessian by torch.func in blocks, projected, and its eigenvalues."""
    from torch.func import grad, jvp, vmap

    def scalar(z: Tensor) -> Tensor:
        logits = network(z.reshape(1, *x.shape))[0]
        return logits[rival] - logits[own]

    flat = x.flatten()
    gradient = grad(scalar)(flat)
    normal = gradient / gradient.norm()
    rows = [vmap(lambda v: jvp(grad(scalar), (flat,), (v,))[1])(block) for block in torch.eye(flat.numel()).split(64)]
    hessian = torch.cat(rows).double()
    normal = normal.double()
    hessian -= torch.outer(normal, normal @ hessian)
    hessian -= torch.outer(hessian @ normal, normal)
    values = torch.linalg.eigvalsh((hessian + hessian.T) / 2) / gradient.norm()
    return values.flip(0), gradient


def compare(repeats: int) -> None:
    """Lanczos 5 + 5 at d = 3072 against the dense ways, and the error of its values."""
    network, x = smooth_net(32), torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    field = Field(network)
    label = field.label(x)
    rival = (label + 1) % 10
    field.smoothness(x)
    given = {"at": "input", "label": label, "target": rival, "top": 5}
    ratios: dict[str, list[float]] = {"torch.func dense": [], "dense": []}
    times: list[float] = []
    worst = 0.0
    curvature(field, x, **given, spectrum="lanczos")
    for _ in range(repeats):
        begin = time.perf_counter()
        found = curvature(field, x, **given, spectrum="lanczos")
        times.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        truth, _ = plain_dense(network, x[0], int(label), int(rival))
        ratios["torch.func dense"].append((time.perf_counter() - begin) / times[-1])
        begin = time.perf_counter()
        curvature(field, x, **given, spectrum="dense", directions=False)
        ratios["dense"].append((time.perf_counter() - begin) / times[-1])
        ends = torch.cat([truth[:5], truth[-5:]])
        worst = max(worst, float((found.principal[0] / ends - 1).abs().max()))
    print(f"d = 3072: Lanczos 5 + 5 and a mean of 60 probes {statistics.median(times):.2f} s")
    for name, each in ratios.items():
        print(f"  {name:17s} takes {statistics.median(each):5.1f} x as long [{min(each):.1f} - {max(each):.1f}]")
    print(f"  largest relative difference of the ten values {worst:.1e}")


def large(name: str, top: int) -> None:
    """One picture of 224 x 224: time and peak memory, printed as JSON by a child process."""
    network = residual_net() if name == "resnet18" else smooth_net(224)
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    field = Field(network)
    label = field.label(x)
    field.gradient(x, label, (label + 1) % 10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    kind = field.smoothness(x)
    capture = time.perf_counter() - begin
    begin = time.perf_counter()
    found = curvature(field, x, at="input", label=label, target=(label + 1) % 10, top=top)
    answer = {
        "network": name,
        "kind": kind,
        "seconds": time.perf_counter() - begin,
        "capture seconds": capture,
        "MiB before": before / 1024,
        "MiB peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "largest": float(found.principal[0, 0]),
        "smallest": float(found.principal[0, -1]),
        "mean": float(found.mean[0]),
        "standard error": float(found.mean_error[0]),
    }
    print(json.dumps(answer))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--large", choices=["cnn", "resnet18"], help="only this picture of 224 x 224, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.large:
        large(arguments.large, top=5)
        return
    # First, while this process is small: a child starts with its parent's peak as its own.
    for name in ("cnn", "resnet18"):
        command = [sys.executable, __file__, "--large", name, "--threads", str(arguments.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        print(f"d = 150528: {done.stdout.strip() or done.stderr.strip().splitlines()[-1]}", flush=True)
    compare(arguments.repeats)


if __name__ == "__main__":
    main()
