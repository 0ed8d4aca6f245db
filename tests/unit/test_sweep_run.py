"""Running sweeps: the same bytes in memory, in a directory, on every executor; errors that reach the user."""

import errno
import multiprocessing
import os
import sqlite3
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
import torch
from tests.support.sweeping import Deadly, Drifting, Failing, Given, Products, digest_of_files, flat, sealed_folder

from assay.errors import MissingExtra, NumericalError, StoreError, SubjectError, UsageError
from assay.sweep import Item, plan, run, verify
from assay.sweep.folder import folder_of
from assay.sweep.locks import coordinating

JOB = Products(count=9)


@pytest.fixture(scope="module")
def truth():
    return flat(run(JOB))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("expected")
    run(JOB, directory=folder)
    return digest_of_files(sealed_folder(folder))


class Backwards(Executor):
    """Runs what it is given when somebody waits, the last first."""

    def __init__(self) -> None:
        self.waiting: list = []

    def submit(self, function, /, *arguments, **keywords) -> Future:
        future: Future = Future()
        self.waiting.append((future, function, arguments))
        threading.Timer(0.05, self.go).start()
        return future

    def go(self) -> None:
        waiting, self.waiting = self.waiting, []
        for future, function, arguments in reversed(waiting):
            future.set_result(function(*arguments))


def executors() -> dict:
    spawn = multiprocessing.get_context("spawn")
    return {
        "here": dict,
        "threads": lambda: {"executor": ThreadPoolExecutor(3)},
        "backwards": lambda: {"executor": Backwards()},
        "own pool": lambda: {"workers": 2},
        "user's pool": lambda: {"executor": ProcessPoolExecutor(2, mp_context=spawn)},
    }


@pytest.mark.parametrize("name", executors())
def test_same_bytes_on_every_executor(name: str, tmp_path: Path, truth, files):
    options = executors()[name]()
    try:
        found = run(JOB, directory=tmp_path, **options)
    finally:
        if "executor" in options:
            options["executor"].shutdown()
    assert flat(found) == truth
    assert list(found) == list(truth)
    root = sealed_folder(tmp_path)
    assert digest_of_files(root) == files
    assert {path.name for path in root.iterdir()} == {*files, "times.json", "manifest.json"}  # nothing else is left
    assert verify(tmp_path).intact
    assert flat(run(JOB, directory=tmp_path)) == truth  # read, not computed


def test_in_memory_with_threads(truth):
    with ThreadPoolExecutor(2) as executor:
        assert flat(run(JOB, executor=executor)) == truth


def test_table_says_what_every_item_was(tmp_path: Path):
    found = run(JOB, directory=tmp_path)
    with sqlite3.connect(sealed_folder(tmp_path) / "table.sqlite") as connection:
        rows = connection.execute("SELECT stage, name, arguments FROM items ORDER BY position").fetchall()
    assert [name for _, name, _ in rows] == list(found)
    assert rows[2] == (0, "product 2", '{"seed":2}')


def test_stages_see_the_outcomes_of_earlier_ones(truth):
    even = [name for name in truth if name.startswith("product") and f"sum of {name}" in truth]
    assert 0 < len(even) < JOB.count
    outcomes = run(JOB)
    assert all(outcomes[f"sum of {name}"]["total"][0] == outcomes[name]["clean"].sum() for name in even)


def test_jobs_of_one_directory_have_folders_of_their_own(tmp_path: Path):
    run(JOB, directory=tmp_path)
    run(Products(count=3), directory=tmp_path)
    assert len(list((tmp_path / "sweeps").iterdir())) == 2
    assert verify(tmp_path).intact


def test_threads_are_set_and_put_back():
    seen: list[int] = []

    class Watched(Products):
        def open(self, stage, done):
            compute = super().open(stage, done)
            return lambda item: (seen.append(torch.get_num_threads()), compute(item))[1]

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(Watched(count=2, threads=2, stages=1))
        assert (set(seen), torch.get_num_threads()) == ({2}, 3)
        with pytest.raises(NumericalError):
            run(Failing(threads=2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("options", [{}, {"workers": 2}], ids=["here", "pool"])
def test_errors_of_the_job_reach_the_user(options: dict, tmp_path: Path):
    with pytest.raises(NumericalError, match="logits are NaN") as caught:
        run(Failing(), directory=tmp_path, **options)
    assert (caught.value.where, caught.value.advice) == ("layer 3", "Look at layer 3.")
    with pytest.raises(MissingExtra, match="'nothing'"):  # an exception that pickle alone could not carry
        run(Failing(kind="extra"), directory=tmp_path, **options)
    with pytest.raises(ZeroDivisionError, match="five"):
        run(Failing(kind="other"), directory=tmp_path, **options)
    kept = list(folder_of(tmp_path, Failing()).glob("outcomes/*/*.safetensors"))
    assert kept if not options else True
    assert not list(tmp_path.rglob("scratch-*"))


def test_item_whose_worker_dies_is_sent_again(tmp_path: Path, truth):
    job = Deadly(count=9, once=str(tmp_path / "died"))
    assert flat(run(job, directory=tmp_path, workers=2)) == truth
    assert (tmp_path / "died").exists()


def test_item_that_kills_every_worker_is_named(tmp_path: Path):
    with pytest.raises(SubjectError, match="'product 3' ended its worker 3 times"):
        run(Deadly(count=6), directory=tmp_path, workers=2)
    kept = {path.stem for path in tmp_path.rglob("*.safetensors")}
    assert len(kept) >= 2  # the others' work is there


def test_broken_executor_of_the_user(tmp_path: Path):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as executor, pytest.raises(Exception, match="The executor broke"):
        run(Deadly(count=4), directory=tmp_path, executor=executor)
    assert flat(run(Deadly(count=4, victim=99), directory=tmp_path)) == flat(run(Products(count=4)))


class Unpicklable(Products):
    def __reduce__(self):
        raise TypeError("no")


def test_job_that_cannot_be_pickled(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be sent to other processes") as caught:
        run(Unpicklable(), directory=tmp_path, workers=2)
    assert "workers=1" in caught.value.advice
    assert len(run(Unpicklable(), directory=tmp_path)) > 12


def test_changed_pickle_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Tampering(ThreadPoolExecutor):
        def submit(self, function, /, *arguments, **keywords):
            with open(arguments[0].scratch / "job.pickle", "ab") as file:
                file.write(b"x")
            return super().submit(function, *arguments, **keywords)

    with Tampering(1) as executor, pytest.raises(UsageError, match="changed on the way"):
        run(JOB, directory=tmp_path, executor=executor)


def test_pickle_is_for_this_user_alone(tmp_path: Path):
    modes: list[int] = []

    class Looking(ThreadPoolExecutor):
        def submit(self, function, /, *arguments, **keywords):
            scratch = arguments[0].scratch
            modes.extend(path.stat().st_mode & 0o777 for path in (scratch, scratch / "job.pickle"))
            return super().submit(function, *arguments, **keywords)

    with Looking(1) as executor:
        run(JOB, directory=tmp_path, executor=executor)
    assert set(zip(modes[::2], modes[1::2], strict=True)) == {(0o700, 0o600)}


def test_computation_that_is_not_deterministic(tmp_path: Path):
    state = tmp_path / "state"
    job = Drifting(count=3, stages=1, state=str(state))
    # two unsealed folders of one sweep, as two machines would fill them
    one, two = (folder_of(tmp_path / name, job) for name in ("a", "b"))
    for text, root in (("1.0", one), ("2.0", two)):
        state.write_text(text)
        half_done(job, root.parent.parent)
    for path in (two / "shards").iterdir():
        path.rename(one / "shards" / path.name)
    with pytest.raises(StoreError, match="not deterministic"):
        run(job, directory=one.parent.parent)


def half_done(job: Products, directory: Path) -> None:
    """A sweep that ends before its last item, and is not sealed."""

    class Stop(Exception):
        pass

    class Half(type(job)):
        def open(self, stage, done):
            compute = super().open(stage, done)

            def until(item):
                if item.name == f"product {self.count - 1}":
                    raise Stop
                return compute(item)

            return until

    half = Half(**{name: getattr(job, name) for name in job.__dataclass_fields__})
    with pytest.raises(Stop):
        run(half, directory=directory)


def test_second_coordinator_is_refused(tmp_path: Path):
    half_done(JOB, tmp_path)
    root = folder_of(tmp_path, JOB)
    with (
        coordinating(root / "lock", root / "busy"),
        pytest.raises(StoreError, match=f"Another process .*process {os.getpid()} on"),
    ):
        run(JOB, directory=tmp_path)
    assert len(run(JOB, directory=tmp_path)) > JOB.count


def test_items_of_one_content_are_computed_once():
    calls: list[str] = []
    items = (Item("a", {"x": 1}), Item("b", {"x": 1}), Item("c", {"x": 2}))

    class Counting(Given):
        def open(self, stage, done):
            compute = super().open(stage, done)
            return lambda item: (calls.append(item.name), compute(item))[1]

    job = Counting(given=tuple((item, {"v": numpy.array(item.arguments["x"])}) for item in items))
    with ThreadPoolExecutor(1) as executor, pytest.raises(UsageError, match="cannot be sent"):
        run(job, executor=executor)
    found = run(job)
    assert {name: int(outcome["v"]) for name, outcome in found.items()} == {"a": 1, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (Given(given=((Item("a", {"x": 1}), {}), (Item("a", {"x": 2}), {}))), "Two items are called 'a'"),
        (Given(given=((Item("a", {}, -1.0), {}),)), "cost of 'a'"),
        (Given(given=((Item("a", {"x": {1}}), {}),)), "cannot hold"),
        (Given(given=((Item("a", {}), {"v": "text"}),)), "cannot be kept"),
        (Given(extra={"x": object()}), "cannot hold"),
        (Products(threads=0), "threads must be"),
        (Products(stages=0), "stages must be"),
    ],
)
def test_jobs_that_break_the_rules(job: Products, message: str, tmp_path: Path):
    with pytest.raises(UsageError, match=message):
        run(job)
    with pytest.raises(UsageError, match=message):
        run(job, directory=tmp_path)


def test_workers_take_settings_of_torch_over(tmp_path: Path):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = run(Settings(count=2, stages=1), directory=tmp_path, workers=2)
    finally:
        torch.set_default_dtype(before)
    assert {outcome["bits"].item() for outcome in found.values()} == {64}


class Settings(Products):
    """Says in how many bits torch computes by default."""

    def open(self, stage, done):
        import torch

        return lambda item: {"bits": numpy.array(torch.zeros(1).element_size() * 8)}


def test_wrong_arguments(tmp_path: Path):
    with pytest.raises(UsageError, match="workers must be"):
        run(JOB, workers=0)
    with pytest.raises(UsageError, match="is no executor"):
        run(JOB, executor="cluster")  # type: ignore[arg-type]


def test_nothing_to_do(tmp_path: Path):
    assert dict(run(Given(), directory=tmp_path)) == dict(run(Given())) == {}
    assert verify(tmp_path).intact


def test_empty_outcomes_and_odd_names(tmp_path: Path):
    names = ["", "a/b", 'quote " and \\', "ünïcode ∂", "__metadata__", "x" * 300]
    given = tuple(
        (Item(name, {"n": n}), {"flags": numpy.zeros((0, 3), bool), "value": numpy.float32(n), "": numpy.arange(n)})
        for n, name in enumerate(names)
    )
    job = Given(given=(*given, (Item("nothing", {}), {})))
    assert flat(run(job, directory=tmp_path)) == flat(run(job))
    assert verify(tmp_path).intact


@pytest.mark.parametrize("writes", [0, 1, 2, 5, 9, 14, 30, 38])
def test_full_disk_keeps_what_is_done(writes: int, tmp_path: Path, files, monkeypatch: pytest.MonkeyPatch):
    count, real = 0, os.fsync

    def fsync(handle: int) -> None:
        nonlocal count
        count += 1
        if count > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match="disk is full"):
            run(JOB, directory=tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    kept = len(list(tmp_path.rglob("outcomes/*/*.safetensors")))
    seen: list[str] = []
    run(JOB, directory=tmp_path, progress=lambda done, total, text: seen.append(text))
    assert f": {min(kept, 9)} of 9" in seen[0]
    assert digest_of_files(sealed_folder(tmp_path)) == files


def test_full_disk_under_the_rows(tmp_path: Path, files, monkeypatch: pytest.MonkeyPatch):
    real = sqlite3.connect

    def small(*arguments, **keywords):
        connection = real(*arguments, **keywords)
        connection.execute("PRAGMA max_page_count=3")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        with pytest.raises(StoreError, match="disk is full"):
            run(Products(count=60), directory=tmp_path)
    job = Products(count=60)
    assert flat(run(job, directory=tmp_path)) == flat(run(job))


def test_directory_that_cannot_be_written(tmp_path: Path, files, monkeypatch: pytest.MonkeyPatch):
    count, real = 0, os.replace

    def replace(*arguments) -> None:
        nonlocal count
        count += 1
        if count > 4:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(StoreError, match="No permission"):
            run(JOB, directory=tmp_path)
    run(JOB, directory=tmp_path)
    assert digest_of_files(sealed_folder(tmp_path)) == files


def test_a_file_where_the_directory_should_be(tmp_path: Path):
    (tmp_path / "run").write_text("")
    with pytest.raises(StoreError, match="file stands where a folder"):
        run(JOB, directory=tmp_path / "run")


def test_progress_goes_by_cost():
    seen: list[tuple[int, int, str]] = []
    run(Products(count=4, stages=1), progress=lambda *given: seen.append(given))  # costs 1, 2, 3, 1
    assert [done for done, _, _ in seen] == [0, 142, 428, 857, 1000]
    assert all(total == 1000 for _, total, _ in seen)
    assert "1 of 4" in seen[1][2]
    assert "left" in seen[1][2]
    assert "left" not in seen[-1][2]


def test_plan_counts_and_measures(tmp_path: Path):
    found = plan(Products(count=50, pause=0.02, stages=1), directory=tmp_path)
    assert found.items == 50
    assert found.seconds >= 50 * 0.02
    assert found.bytes > 50 * 300
    assert 0 < len(found.measured) <= 8
    assert "50 items" in str(found)
    assert not list(tmp_path.iterdir())  # nothing is kept
    assert "stage 1 of 2" in str(plan(Products(count=3)))


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtra, match="Ray cluster"):
        run(JOB, executor="ray")


def test_plan_with_workers_measures_in_processes(tmp_path: Path):
    found = plan(Products(count=50, pause=0.02, stages=1), workers=2, directory=tmp_path)
    assert found.items == 50
    assert found.seconds >= 50 * 0.02 / 2
    assert "with 2 workers" in str(found)
    assert not list(tmp_path.iterdir())
    with pytest.raises(NumericalError, match="logits are NaN"):
        plan(Failing(count=6), workers=2)
