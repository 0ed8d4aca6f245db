"""Mutation testing: change the source in one place, and see whether a test turns red.

    .venv/bin/python tools/mutation.py covariance interpret --sample 100 --out benchmarks/out/mutation.jsonl
    .venv/bin/python tools/mutation.py --again benchmarks/out/mutation.jsonl

The changes are those of Cosmic Ray. Its own executor starts Python, and with it torch, once per mutant, and mutmut
leaves out every decorated function, which is most of `covariance`; so the mutants run here in forked processes:

- One pytest session collects the tests of a part. A forked copy runs them all, line by line observed, which tells the
  tests that reach each line and what they cost.
- A mutant inside a function is put into the live function (its code object is replaced) in a forked copy of that
  session; only the tests that reach its line run, cheap ones and frequent killers first, until one fails.
- A mutant outside functions (a constant, a default, a decorator) needs a fresh import: a process with torch, but
  without assay, is forked and reads the changed text in place of the file.

No file of the source is ever written. Places are drawn at random with a fixed seed, one change for each.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from math import sqrt
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from mutants import PARTS, Mutant, drawn, mutated

PROJECT = Path(__file__).resolve().parent.parent
CPU_FLOOR = 10.0  # seconds that a mutant may compute beyond three times what its tests need


@dataclass
class Outcome:
    """What became of a mutant: killed, timeout, survived, unreached by any test, or unfinished (no verdict)."""

    part: str
    mutant: Mutant
    status: str
    killer: str = ""
    seconds: float = 0.0
    tests: int = 0


def main() -> None:
    """Draw, run and report; see the text at the top of the file."""
    import argparse

    reader = argparse.ArgumentParser(description="Mutation testing of parts of assay.")
    reader.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all of them")
    reader.add_argument("--sample", type=int, default=100, help="places per part (default 100)")
    reader.add_argument("--seed", type=int, default=8)
    reader.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "out" / "mutation.jsonl")
    reader.add_argument("--again", type=Path, help="run the mutants that survived in this earlier output once more")
    reader.add_argument(
        "--observed", action="store_true", help="the tests are those of the last run: observe them not again"
    )
    given = reader.parse_args()
    os.chdir(PROJECT)
    os.environ |= {"CI": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    sys.path[:0] = [str(PROJECT / "src"), str(PROJECT)]
    sys.dont_write_bytecode = True
    given.out.parent.mkdir(parents=True, exist_ok=True)
    earlier = read(given.again) if given.again else []
    found: list[Outcome] = []
    for part in given.parts or PARTS:
        if given.again:
            mutants = [o.mutant for o in earlier if o.part == part and o.status in ("survived", "unreached")]
        else:
            mutants = drawn(part, given.sample, given.seed)
        with given.out.open("a", encoding="utf-8") as stream:
            for outcome in run(part, mutants, given.out.with_suffix(f".{part}.json"), given.observed):
                found.append(outcome)
                stream.write(json.dumps(asdict(outcome)) + "\n")
                stream.flush()
    print(table(found))


# --- running -------------------------------------------------------------------------------------------------------


def run(part: str, mutants: Sequence[Mutant], reached: Path, observed: bool) -> Iterator[Outcome]:
    """Run the tests of a part against each mutant; `reached` keeps what they reach and cost."""
    import hypothesis  # noqa: F401  (imported before forking, so that it is imported once)
    import mpmath  # noqa: F401
    import numpy  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch

    torch.set_num_threads(1)
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"assay-mutation-{os.getpid()}-{part}"
    folder.mkdir(parents=True)
    results = folder / "results.jsonl"
    if not observed:
        reached.unlink(missing_ok=True)
    forked(lambda: session(part, Inside([m for m in mutants if m.inside], results, reached)), None, None)
    if not reached.exists():
        raise SystemExit(f"the tests of {part} do not pass without a mutant")
    if results.exists():
        for record in map(json.loads, results.read_text(encoding="utf-8").splitlines()):
            yield Outcome(part, **(record | {"mutant": revived(record["mutant"])}))
    known = json.loads(reached.read_text(encoding="utf-8"))
    for mutant in mutants:
        if not mutant.inside:
            yield outside(part, mutant, known)


def session(part: str, plugin: Any, *options: str) -> int:
    """A pytest session over the tests of a part and the doctests of its files."""
    import pytest

    tests = [str(file) for pattern in PARTS[part][1] for file in sorted(PROJECT.glob(pattern))]
    fixed = [
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "--assert=plain",
        "--tb=line",
        "-W",
        "ignore",
    ]
    return int(pytest.main([*fixed, *options, *PARTS[part][0], *tests], plugins=[plugin]))


class Inside:
    """Pytest plugin: instead of running the tests once, runs them against each mutant in a forked copy."""

    def __init__(self, mutants: Sequence[Mutant], results: Path, reached: Path) -> None:
        self.mutants, self.results, self.reached = mutants, results, reached

    def pytest_runtestloop(self, session: Any) -> bool:
        """Observe all the tests once, then run mutants."""
        if session.testsfailed:
            raise session.Interrupted("errors while collecting")
        items = {item.nodeid: item for item in session.items}
        started = time.monotonic()
        if not self.reached.exists():
            forked(lambda: observe(items, self.reached), None, None)
        if not self.reached.exists():
            return True
        known = json.loads(self.reached.read_text(encoding="utf-8"))
        spent = sum(known["seconds"].values())
        print(f"{len(items)} tests need {spent:.0f} s of CPU ({time.monotonic() - started:.0f} s passed)", flush=True)
        kills: Counter[str] = Counter()
        for number, mutant in enumerate(self.mutants, 1):
            names = ordered(known, mutant.path, mutant.lines, kills)
            outcome = against(mutant, names, known, lambda names=names, mutant=mutant: self.child(mutant, names, items))
            kills[outcome.killer] += outcome.status == "killed"
            record = asdict(outcome)
            del record["part"]
            with self.results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
            said(number, len(self.mutants), outcome)
        return True

    def child(self, mutant: Mutant, names: Sequence[str], items: dict[str, Any]) -> str:
        """Change the live functions, then run tests until one fails; its name."""
        if not exchange(mutant):
            return "(the code could not be exchanged)"
        return first_failure([items[name] for name in names])


def outside(part: str, mutant: Mutant, known: dict[str, Any]) -> Outcome:
    """Run a mutant that needs a fresh import."""
    path = mutant.path
    lines = {line for name in known["lines"].get(path, {}) for line in [int(name)]}
    names = ordered(known, path, tuple(lines), Counter())

    class Chosen:
        failure = ""

        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            by_name = {item.nodeid: item for item in items}
            items[:] = [by_name[name] for name in names if name in by_name]

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed and not self.failure:
                self.failure = report.nodeid

    def child() -> str:
        sys.meta_path.insert(0, Changed(mutant))
        plugin = Chosen()
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        code = session(part, plugin, "-x")
        return plugin.failure or ("" if code == 0 else "(import or collection)")

    outcome = against(mutant, names, known, child)
    outcome.part = part
    said(0, 0, outcome)
    return outcome


class Changed:
    """Finder of one module whose text is the mutant's."""

    def __init__(self, mutant: Mutant) -> None:
        inside = Path(mutant.path).relative_to("src").with_suffix("")
        self.name = ".".join(inside.parts).removesuffix(".__init__")
        self.text = mutated(mutant)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The ordinary place of the module, with a loader that compiles our text."""
        if name != self.name:
            return None
        spec, text = PathFinder.find_spec(name, path, target), self.text

        class Loader(SourceFileLoader):
            def get_code(self, fullname: str) -> CodeType:
                return compile(text, self.path, "exec", dont_inherit=True)

        assert spec
        assert spec.origin
        spec.loader = Loader(name, spec.origin)
        return spec


def observe(items: dict[str, Any], reached: Path) -> str:
    """Run every test under coverage's line tracer; write what each one costs and reaches."""
    from coverage import Coverage

    files = [str(PROJECT / "src" / "assay" / "*")]
    tracer = Coverage(data_file=None, include=files, config_file=False)
    seconds: dict[str, float] = {}
    tracer.start()
    order = list(items.values())
    for item, following in zip(order, [*order[1:], None], strict=True):
        tracer.switch_context(item.nodeid)
        before = time.process_time()
        if failed(item, following):
            print("fails without a mutant:", item.nodeid, flush=True)
            return item.nodeid
        seconds[item.nodeid] = time.process_time() - before
    tracer.stop()
    data = tracer.get_data()
    lines = {
        Path(file).relative_to(PROJECT).as_posix(): {n: c for n, c in data.contexts_by_lineno(file).items() if any(c)}
        for file in data.measured_files()
    }
    reached.write_text(json.dumps({"seconds": seconds, "lines": lines}), encoding="utf-8")
    return ""


def ordered(known: dict[str, Any], path: str, lines: Sequence[int], kills: Counter[str]) -> list[str]:
    """The tests that reach one of the lines: cheap ones and frequent killers first."""
    table, seconds = known["lines"].get(path, {}), known["seconds"]
    names = {name for line in lines for name in table.get(str(line), ()) if name}
    return sorted(names, key=lambda name: (seconds[name] / (1 + kills[name]), name))


def against(mutant: Mutant, names: Sequence[str], known: dict[str, Any], child: Callable[[], str]) -> Outcome:
    """Run a child within its limits and read what it says."""
    if not names:
        return Outcome("", mutant, "unreached")
    limit = CPU_FLOOR + 3 * sum(known["seconds"][name] for name in names)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    status, said = forked(child, limit, 60 + 20 * limit)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        # a child that we ended although it had hardly computed tells of a busy machine or a deadlock, not of the tests
        kind: dict[int, str] = {
            signal.SIGXCPU: "timeout",
            signal.SIGKILL: "timeout" if seconds > limit else "unfinished",
        }
        return Outcome("", mutant, kind.get(number, "killed"), f"(signal {number})", seconds, len(names))
    return Outcome("", mutant, "killed" if said else "survived", said, seconds, len(names))


def forked(child: Callable[[], Any], cpu: float | None, wall: float | None) -> tuple[int, str]:
    """Run a function in a forked copy of this process; its exit status and the text it returned."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        status = 1
        try:
            if cpu is not None:
                resource.setrlimit(resource.RLIMIT_CPU, (int(cpu) + 1, int(cpu) + 5))
            os.write(writer, str(child() or "").encode()[:4000])
            status = 0
        except BaseException as error:  # the copy must never return into the caller's loop
            os.write(writer, f"({type(error).__name__}: {error})".encode()[:4000])
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(writer)
    end = None if wall is None else time.monotonic() + wall
    while True:
        done, status = os.waitpid(process, 0 if end is None else os.WNOHANG)
        if done:
            break
        if end is not None and time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            end = None
        time.sleep(0.02)
    with os.fdopen(reader, "rb") as stream:
        return status, stream.read().decode(errors="replace")


def exchange(mutant: Mutant) -> bool:
    """Put the mutant's code into every live function it concerns; whether there was one."""
    path = str(PROJECT / mutant.path)
    old = compile(Path(mutant.path).read_text(encoding="utf-8"), path, "exec", dont_inherit=True)
    new = compile(mutated(mutant), path, "exec", dont_inherit=True)
    pairs: dict[CodeType, CodeType] = {}
    paired(old, new, pairs)
    live = [
        found for found in gc.get_objects() if isinstance(found, FunctionType) and found.__code__.co_filename == path
    ]
    changed = [function for function in live if pairs.get(function.__code__, function.__code__) != function.__code__]
    for function in changed:
        function.__code__ = pairs[function.__code__]
    return bool(changed)


def paired(old: CodeType, new: CodeType, pairs: dict[CodeType, CodeType]) -> None:
    """Match the code objects of two texts that differ in one expression."""
    first = [const for const in old.co_consts if isinstance(const, CodeType)]
    second = [const for const in new.co_consts if isinstance(const, CodeType)]
    if len(first) != len(second):
        return
    for one, other in zip(first, second, strict=True):
        pairs[one] = other
        paired(one, other, pairs)


def first_failure(items: Sequence[Any]) -> str:
    """Name of the first test that fails, or nothing."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        if failed(item, following):
            return item.nodeid
    return ""


def failed(item: Any, following: Any) -> bool:
    """Run one test with its fixtures; whether any of its phases failed."""
    from _pytest.runner import runtestprotocol

    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=following))


# --- reporting -----------------------------------------------------------------------------------------------------


def said(number: int, count: int, outcome: Outcome) -> None:
    """One line per mutant; a survivor with its change."""
    m = outcome.mutant
    place = f"{number}/{count} " if count else ""
    print(
        f"{place}{outcome.status:9} {m.path}:{m.line} {m.where} {outcome.seconds:.1f} s of {outcome.tests} tests",
        flush=True,
    )
    if outcome.status in ("survived", "unreached"):
        print(f"      - {m.before}\n      + {m.after}", flush=True)


def read(path: Path) -> list[Outcome]:
    """The outcomes stored in a file."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Outcome(**(record | {"mutant": revived(record["mutant"])})) for record in records]


def revived(record: dict[str, Any]) -> Mutant:
    """A mutant from its stored form."""
    fields: dict[str, Any] = {**record, "lines": tuple(record["lines"])}
    return Mutant(**fields)


def table(found: Sequence[Outcome]) -> str:
    """Counts and the score with its 95 % interval, per part."""
    text = ["part         mutants  killed  timeout  survived  unreached  score  95 % interval   CPU s"]
    for part in dict.fromkeys(outcome.part for outcome in found):
        mine = [outcome for outcome in found if outcome.part == part and outcome.status != "unfinished"]
        count = Counter(outcome.status for outcome in mine)
        killed = count["killed"] + count["timeout"]
        low, high = wilson(killed, len(mine))
        counts = (
            f"{len(mine):7}  {count['killed']:6}  {count['timeout']:7}  {count['survived']:8}  {count['unreached']:9}"
        )
        cost = sum(outcome.seconds for outcome in mine)
        text.append(f"{part:12} {counts}  {killed / len(mine):.3f}  {low:.3f} .. {high:.3f}  {cost:6.0f}")
    return "\n".join(text)


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share (Wilson 1927)."""
    share, weight = hits / count, z * z / count
    middle, half = share + weight / 2, z * sqrt(share * (1 - share) / count + weight / (4 * count))
    return (middle - half) / (1 + weight), (middle + half) / (1 + weight)


if __name__ == "__main__":
    main()
