"""Print a script that completes verbs and options in bash, zsh or fish."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

HELP = (
    "The shell. Now: source <(assay completion bash). For good, write it to "
    "~/.local/share/bash-completion/completions/assay, to a file _assay in a folder of $fpath (zsh), or to "
    "~/.config/fish/completions/assay.fish."
)
_ONE_VERB = {
    'if [[ " $all_commands " =~ " $word " ]]; then': (
        'if [[ ${#cmd_path[@]} -eq 0 && " $all_commands " =~ " $word " ]]; then'
    ),
    'if string match -q -- "* $word *" " $all_commands "': (
        'if test (count $subcommands) -eq 0; and string match -q -- "* $word *" " $all_commands "'
    ),
}
"""In the scripts for bash and fish: what takes any word for a verb that is the name of one, and what does not."""


def run(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help=HELP)],
    /,
) -> int:
    """Print the script; exit 0."""
    from assay.cli.program import application

    script = application().generate_completion(prog_name="assay", shell=shell)
    for any_word, first_word in _ONE_VERB.items():  # in `assay audit demo`, demo is a model
        script = script.replace(any_word, first_word)
    print(script)
    return 0
