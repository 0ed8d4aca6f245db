"""Let `import torchvision` work beside a CPU build of torch, for the tests only.

The wheel of torchvision on PyPI carries compiled operators that load only beside the CUDA build of torch. Beside a CPU
build the import stops with "operator torchvision::nms does not exist", although the network constructors and image
transforms are plain Python. Once the import has failed for that reason, and only then, this module declares the
signatures of the two missing operators and imports again. Calling the operators still fails, as it should; where
torchvision imports normally, nothing is declared.

    .venv/bin/python tools/torchvision_ops.py

copies this file into the site-packages of that virtual environment, with a `.pth` line that installs the hook at every
start. The hook imports neither torch nor torchvision: it only waits for the first import of torchvision.
"""

import sys

MISSING = "operator torchvision::nms does not exist"
SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared = []  # torch withdraws the operators when the library object goes away


class Loader:
    """Runs torchvision's own loader, and once more after declaring the operators if it failed for lack of them."""

    def __init__(self, original):
        self.original = original

    def create_module(self, spec):
        """Leave the choice of the module object to torchvision's own loader."""
        return self.original.create_module(spec)

    def exec_module(self, module):
        """Execute the package `torchvision`, twice if need be.

        Raises:
            RuntimeError: The import failed for another reason, or failed again.
        """
        module.__spec__.loader = module.__loader__ = self.original  # nobody who looks later meets this class
        try:
            self.original.exec_module(module)
        except RuntimeError as error:
            if MISSING not in str(error):
                raise
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]
            _declare()
            self.original.exec_module(module)


class Finder:
    """Puts `Loader` in front of the loader of the top-level package torchvision, and of nothing else."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Find torchvision where Python would, with its loader wrapped; None for every other module."""
        if name != "torchvision":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader)
        return spec


def install():
    """Put the finder first on `sys.meta_path`, once."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


def _declare():
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for signature in SIGNATURES:
        library.define(signature)
    _declared.append(library)


def _copy_into_this_environment():
    import shutil
    import sysconfig
    from pathlib import Path

    if sys.prefix == sys.base_prefix:
        sys.exit(
            "torchvision_ops: run me with the Python of a virtual environment (.venv/bin/python), not a system Python"
        )
    folder = Path(sysconfig.get_path("purelib"))
    shutil.copyfile(__file__, folder / "torchvision_ops.py")
    (folder / "torchvision_ops.pth").write_text("import torchvision_ops; torchvision_ops.install()\n", encoding="utf-8")


if __name__ == "__main__":
    _copy_into_this_environment()
