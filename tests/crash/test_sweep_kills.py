"""Sweeps that are killed and resumed: the same bytes in the end, whatever happened on the way."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.sweeping import Products, digest_of_files, flat, sealed_folder, start

from assay.sweep import run, verify

JOB = {"count": 24, "size": 32, "pause": 0.004, "torch": True}
QUICK = JOB | {"torch": False}
CHANGES = 400


class Server:
    """Runs sweeps in processes of their own, to be killed."""

    def __init__(self) -> None:
        self.process = start("serve", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, directory: Path, job: dict, kill_after: float | None = None) -> int:
        """Exit status of one sweep."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"directory": str(directory), "job": job}) + "\n")
        self.process.stdin.flush()
        number = int(self.process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(number, signal.SIGKILL)
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    assert server.process.stdin
    server.process.stdin.close()
    server.process.wait(60)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("expected")
    run(Products(**JOB), directory=folder)
    return digest_of_files(sealed_folder(folder))


@pytest.fixture(scope="module")
def quickly(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("quickly")
    run(Products(**QUICK), directory=folder)
    return digest_of_files(sealed_folder(folder))


def killed_often(server: Server, folder: Path, expected: dict[str, bytes], kills: int, seed: int) -> int:
    """Kill sweeps at random moments until there were so many kills; every finished one has the expected bytes."""
    draw = random.Random(seed)
    done, sweeps = 0, 0
    while done < kills:
        directory = folder / f"sweep-{sweeps}"
        longest = draw.choice([0.02, 0.1, 0.4, 1.5])  # some sweeps die many times, some late
        while server.run(directory, JOB, draw.uniform(0.0, longest)) != 0:
            done += 1
            if (directory / "sweeps").is_dir():
                assert verify(directory).damages == []  # being killed damages nothing
            if done % 40 == 39:
                assert server.run(directory, JOB) == 0
                break
        assert digest_of_files(sealed_folder(directory)) == expected
        assert verify(directory).intact
        sweeps += 1
    return sweeps


def test_killed_and_resumed(server: Server, tmp_path: Path, expected: dict[str, bytes]):
    assert killed_often(server, tmp_path, expected, kills=12, seed=1) >= 1


@pytest.mark.slow
def test_killed_and_resumed_a_hundred_times(server: Server, tmp_path: Path, expected: dict[str, bytes]):
    assert killed_often(server, tmp_path, expected, kills=110, seed=2) >= 2


def test_ended_before_each_change_of_the_directory(server: Server, tmp_path: Path):
    job = {"count": 2, "size": 4}
    run(Products(**job), directory=tmp_path / "expected")
    wanted = digest_of_files(sealed_folder(tmp_path / "expected"))
    for change in range(1, CHANGES):
        directory = tmp_path / str(change)
        status = server.run(directory, job | {"crash_at": change})
        if status == 0:
            break
        assert status == 9
        if (directory / "sweeps").is_dir() and any((directory / "sweeps").iterdir()):
            assert verify(directory).damages == []
        assert server.run(directory, job) == 0
        assert digest_of_files(sealed_folder(directory)) == wanted
    assert 20 < change < CHANGES - 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("workers", [1, 2])
def test_stopped_by_a_signal(number: signal.Signals, workers: int, tmp_path: Path, quickly: dict[str, bytes]):
    job = QUICK | {"pause": 0.1}
    process = start("run", str(tmp_path), json.dumps(job | {"workers": workers}), stderr=subprocess.PIPE)
    wait_for(lambda: len(list(tmp_path.glob("sweeps/*/outcomes/*/[0-9a-f]*.safetensors"))) >= 2)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    kept = {path.name for path in tmp_path.glob("sweeps/*/outcomes/*/[0-9a-f]*.safetensors")}
    assert 2 <= len(kept) < QUICK["count"]
    if number != signal.SIGKILL:
        assert "KeyboardInterrupt" in said or "Terminated" in said
        assert not list(tmp_path.glob("sweeps/*/scratch-*"))
    seen: list[str] = []
    run(Products(**job), directory=tmp_path, progress=lambda done, total, text: seen.append(text))
    assert f": {len(kept)} of {QUICK['count']}" in seen[0]  # what was there is not computed again
    assert digest_of_files(sealed_folder(tmp_path)) == quickly


def test_workers_end_with_their_coordinator(tmp_path: Path):
    job = {"count": 400, "pause": 0.05, "workers": 2}
    process = start("run", str(tmp_path), json.dumps(job))
    wait_for(lambda: len(list(tmp_path.glob("sweeps/*/shards/*.sqlite"))) >= 2)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(worker) for worker in workers))


def test_two_coordinators(tmp_path: Path, quickly: dict[str, bytes]):
    processes = [start("run", str(tmp_path), json.dumps(QUICK), stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    outcomes = [(process.returncode, text) for process, text in zip(processes, said, strict=True)]
    assert 0 in [code for code, _ in outcomes]
    assert all(code == 0 or "Another process is working on this sweep" in text for code, text in outcomes)
    assert digest_of_files(sealed_folder(tmp_path)) == quickly


def test_what_comes_back_is_what_memory_gives(server: Server, tmp_path: Path):
    job = QUICK | {"count": 24, "pause": 0.03}  # not done before the kill, however fast the machine
    assert server.run(tmp_path, job, 0.15) != 0
    assert flat(run(Products(**job), directory=tmp_path)) == flat(run(Products(**job)))


def wait_for(condition, patience: float = 120.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(number: int) -> list[int]:
    """Processes started by a process."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(number)], capture_output=True, text=True, check=False)
    return [int(word) for word in listed.stdout.split()]


def alive(number: int) -> bool:
    stat = Path(f"/proc/{number}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
