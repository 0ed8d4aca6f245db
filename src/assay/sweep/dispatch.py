"""Items to workers and rows back, with deaths of workers in between."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from assay.errors import AssayError, SubjectError
from assay.sweep.executors import Crew
from assay.sweep.failure import Failure, raised
from assay.sweep.shard import Row
from assay.sweep.side_files import read_side_file, side_file
from assay.sweep.work import Item
from assay.sweep.worker import Ticket, work

ATTEMPTS = 3
"""Times that an item may lose its worker before the sweep stops and names it."""
BARREN = 5
"""Times in a row that all workers may be lost without one item done."""


def dispatch(crew: Crew, ticket: Ticket, stage: int, missing: Mapping[str, Item]) -> Iterator[tuple[str, Row]]:
    """Have items computed, the expensive ones first.

    An item whose worker dies is sent again; from its second loss on it runs alone, so that the one that kills is known.

    Args:
        crew: the workers.
        ticket: what they need to know.
        stage: number of the stage.
        missing: items by key.

    Yields:
        Key and row of every item, as they are ready.

    Raises:
        AssayError: an item's own, with its message.
        SubjectError: when an item has lost its worker `ATTEMPTS` times.
    """
    waiting = deque(sorted(missing, key=lambda key: -missing[key].cost))
    alone: deque[str] = deque()
    losses: Counter[str] = Counter()
    running: dict[Future[Any], str] = {}
    barren = 0

    def send(key: str) -> None:
        item = missing[key]
        running[crew.submit(work, ticket, stage, item.name, dict(item.arguments), item.cost)] = key

    while waiting or alone or running:
        lost: list[str] = []
        broken = False
        try:
            while waiting and not alone and len(running) < 2 * crew.size + 2:
                send(waiting[0])
                waiting.popleft()
            if alone and not running:
                send(alone[0])
                alone.popleft()
        except Exception as error:
            if not crew.lost(error):
                raise
            broken = True
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            found = _answer(crew, future, missing[key := running.pop(future)])
            if found is None:
                lost.append(key)
            else:
                barren = 0
                yield key, found
        if not lost and not broken:
            continue
        if crew.breaks_as_one:  # the others come back at once, most of them lost
            for future in wait(running).done:
                found = _answer(crew, future, missing[key := running.pop(future)])
                if found is None:
                    lost.append(key)
                else:
                    yield key, found
        barren += 1
        kept = {key: row for key in lost if (row := _kept(ticket, key)) is not None}
        yield from kept.items()
        lost = [key for key in lost if key not in kept]
        losses.update(_begun(ticket, lost))
        _judge(losses, missing, barren)
        if not crew.renew():
            raise AssayError(
                "The executor broke: a worker died, or it was shut down.",
                where=missing[lost[0]].name if lost else "executor",
                advice='What is done is kept; run again. With executor="local" lost items are sent again.',
            )
        for key in lost:
            alone.append(key) if losses[key] >= 2 else waiting.appendleft(key)


def _answer(crew: Crew, future: Future[Any], item: Item) -> Row | None:
    """The row that a future brings; None when its worker was lost."""
    try:
        answer = future.result()
    except Exception as error:
        if crew.lost(error):
            return None
        raise
    if isinstance(answer, Failure):
        raise raised(answer, item.name)
    return answer


def _judge(losses: Counter[str], missing: Mapping[str, Item], barren: int) -> None:
    worst = max(losses, key=lambda key: losses[key], default=None)
    if worst is not None and losses[worst] >= ATTEMPTS:
        raise SubjectError(
            f"Item {missing[worst].name!r} ended its worker {losses[worst]} times, the last time running alone.",
            where=missing[worst].name,
            advice="Often that is too little memory: fewer workers or smaller batches help. workers=1 shows more.",
        )
    if barren >= BARREN:
        raise died_at_once(barren)


def died_at_once(times: int) -> SubjectError:
    """The error for workers that die before they have done anything."""
    return SubjectError(
        f"Worker processes died {times} times in a row before an item was done.",
        where="workers",
        advice="In a script, call this below `if __name__ == '__main__':`. workers=1 works without processes.",
    )


def _begun(ticket: Ticket, lost: Collection[str]) -> set[str]:
    """Keys of the lost items that were being computed when their workers died; the others had not begun."""
    found = set()
    for mark in ticket.scratch.glob("now-*"):
        with contextlib.suppress(OSError):
            if (key := mark.read_text(encoding="ascii")) in lost:
                found.add(key)
                mark.unlink()
    return found


def _kept(ticket: Ticket, key: str) -> Row | None:
    """The row of an outcome that was written before its worker died."""
    with contextlib.suppress(ValueError):
        return read_side_file(side_file(ticket.root, key))[0]
    return None
