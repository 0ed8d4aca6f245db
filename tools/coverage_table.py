"""Print what a run under coverage.py reached: a row per package, and the files below a share.

    .venv/bin/python -m coverage run -m pytest -m "not slow"; .venv/bin/python -m coverage combine
    .venv/bin/python tools/coverage_table.py [--below 85] [--data .coverage]

`make coverage` does both. Lines and branches are counted as coverage.py does; the share is of lines and branches
together.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path

from coverage import Coverage

COLUMNS = "| package | files | lines | lines reached | branches | branches reached | together |"
NAMES = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def main() -> None:
    """Read the data file and print both tables as Markdown."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--below", type=float, default=85.0, help="files reached less than this are listed (percent)")
    reader.add_argument("--data", default=".coverage", help="the data that `coverage combine` wrote")
    given = reader.parse_args()
    files = measured(given.data)
    packages: dict[str, list[dict[str, int]]] = defaultdict(list)
    for name, summary in files.items():
        inside = Path(name).parts[Path(name).parts.index("assay") + 1 :]
        packages[inside[0] if len(inside) > 1 else "(modules)"].append(summary)
    print(COLUMNS + "\n" + "| --- " * COLUMNS.count(" | ") + "| --- |")
    for package in sorted(packages):
        print(row(f"`{package}`", packages[package]))
    print(row("all", list(files.values())))
    print(f"\n| file below {given.below:g} % | reached | lines not reached |\n| --- | --- | --- |")
    for name, summary in sorted(files.items(), key=lambda item: share([item[1]])):
        if share([summary]) < given.below:
            print(f"| `{name.removeprefix('src/')}` | {share([summary]):.0f} % | {ranges(summary['missing'])} |")  # type: ignore[arg-type]


def measured(data: str) -> dict[str, dict[str, int]]:
    """Counts of every file, and the numbers of its lines that were not reached."""
    coverage = Coverage(data_file=data)
    coverage.load()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "coverage.json"
        coverage.json_report(outfile=str(out))
        found = json.loads(out.read_text(encoding="utf-8"))["files"]
    return {name: file["summary"] | {"missing": file["missing_lines"]} for name, file in found.items()}


def share(summaries: list[dict[str, int]]) -> float:
    """Per cent of lines and branches together that were reached; 100 where there is nothing to reach."""
    lines, reached, branches, taken = (sum(summary[name] for summary in summaries) for name in NAMES)
    return 100.0 * (reached + taken) / (lines + branches) if lines + branches else 100.0


def row(name: str, summaries: list[dict[str, int]]) -> str:
    """One line of the table of packages."""
    lines, reached, branches, taken = (sum(summary[key] for summary in summaries) for key in NAMES)
    parts = [f"{100 * part / whole:.1f} %" if whole else "-" for part, whole in ((reached, lines), (taken, branches))]
    return (
        f"| {name} | {len(summaries)} | {lines:,} | {parts[0]} | {branches:,} | {parts[1]} | {share(summaries):.1f} % |"
    )


def ranges(lines: list[int]) -> str:
    """Line numbers as runs: 3-5, 9."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and line == runs[-1][1] + 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


if __name__ == "__main__":
    main()
