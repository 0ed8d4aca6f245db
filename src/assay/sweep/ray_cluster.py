"""Items on a Ray cluster (optional extra). Nodes may die; the engine sends their items again."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from assay.errors import MissingExtra

WINDOW = 64
"""Items to have at the cluster at most, where it does not say how many processors it has."""


class RayCluster:
    """The cluster that this process is connected to; a local one is started when it is connected to none.

    All machines need to see the run's directory at the same path.

    Args:
        threads: processors that one item takes.
    """

    ends_with_run = False
    breaks_as_one = False

    def __init__(self, threads: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtra("ray", "ray", "A sweep on a Ray cluster") from error
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
            before = signal.getsignal(signal.SIGTERM)
            ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray puts a handler of its own there
        self._threads = threads
        self._remote: dict[Callable[..., Any], Any] = {}
        self._sent: dict[Future[Any], Any] = {}

    @property
    def size(self) -> int:
        """Items that the cluster can run at once, as it is now: nodes come and go."""
        processors = self._ray.cluster_resources().get("CPU", 0)
        return max(1, math.floor(processors / self._threads)) if processors else WINDOW

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Send one call. Ray itself does not repeat it: the engine counts how often an item loses its worker."""
        if function not in self._remote:
            self._remote[function] = self._ray.remote(num_cpus=self._threads, max_retries=0)(function)
        reference = self._remote[function].remote(*arguments)
        future: Future[Any] = reference.future()
        self._sent[future] = reference
        future.add_done_callback(lambda done: self._sent.pop(done, None))
        return future

    def lost(self, error: BaseException) -> bool:
        """A worker process or its node died; errors of the work itself come back as values."""
        return isinstance(error, self._ray.exceptions.RayError)

    def renew(self) -> bool:
        """Ray starts workers by itself."""
        return True

    def stop(self, *, now: bool) -> None:
        """Take back what is not done; shut Ray down if it was started here."""
        for reference in list(self._sent.values()):
            self._ray.cancel(reference, force=now)
        if self._ours:
            self._ray.shutdown()
