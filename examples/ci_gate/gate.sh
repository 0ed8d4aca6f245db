#!/bin/sh
# A gate for continuous integration: audit a model, check its numbers against rules, compare it with the last good run.
#
#   gate.sh OUT MODEL [options of `assay audit`, such as --arch and --data]
#
# OUT gets run/ (with report.html), junit.xml and comment.md, and compare/ when BASELINE names an earlier run.
# Exit code: 0 good, 1 a rule is not met or a quantity got worse, 2 or 3 the gate itself could not work.
set -u

here=$(dirname "$0")
assay=${ASSAY:-assay}
out=$1 model=$2
shift 2
mkdir -p "$out"

$assay audit "$model" "$@" --only moments,sensitivity,filtering --config "$here/audit.toml" --fail-on never \
    --quiet -o "$out/run" || exit $?

$assay check "$out/run" --require "$here/rules.toml" --junit "$out/junit.xml" --markdown "$out/comment.md"
status=$?
[ "$status" -le 1 ] || exit "$status"

if [ -n "${BASELINE:-}" ]; then
    $assay compare "$BASELINE" "$out/run" --fail-on worse -o "$out/compare"
    compared=$?
    [ "$compared" -le "$status" ] || status=$compared
fi
exit "$status"
