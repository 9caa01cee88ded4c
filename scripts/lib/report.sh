# shellcheck shell=bash
# Steps with a line each, and the table of them at the end. Sourced.
#
# A check is a function. The last line that it prints is what it saw; what it prints to stderr says why it failed.

report_rows=()
report_failed=0
report_skipped=0

# A line of progress, and a row of the table. Result: pass, fail or skip.
report_row() {
    local result=$1 seconds=$2 name=$3 seen=$4
    report_rows+=("$(printf '%-4s  %7s  %-28s  %s' "$result" "$seconds" "$name" "$seen")")
    echo "${report_rows[-1]}"
    case $result in
    fail) report_failed=$((report_failed + 1)) ;;
    skip) report_skipped=$((report_skipped + 1)) ;;
    esac
}

# step NAME CHECK [ARGUMENT...]
step() {
    local name=$1 from till status seen said
    shift
    said=$(mktemp)
    from=${EPOCHREALTIME/[^0-9]/}
    # Not within a condition: that would turn off -e in the check.
    set +e
    seen=$(
        set -euo pipefail
        "$@" 2>"$said"
    )
    status=$?
    set -e
    till=${EPOCHREALTIME/[^0-9]/}
    seen=${seen##*$'\n'}
    if [[ $status -eq 0 ]]; then
        report_row pass "$(report_seconds $((till - from)))" "$name" "$seen"
    else
        report_row fail "$(report_seconds $((till - from)))" "$name" "$(tail -n 1 "$said")"
        sed 's/^/      | /' "$said"
    fi
    rm -f "$said"
}

report_seconds() {
    printf '%d.%02d s' $(($1 / 1000000)) $(($1 / 10000 % 100))
}

# Ends a check that failed.
wrong() {
    echo "$*" >&2
    return 1
}

# The table, and the sum of it. Fails if a step did.
report_table() {
    echo
    echo "$1"
    printf '%s\n' "${report_rows[@]}"
    echo
    echo "$((${#report_rows[@]} - report_failed - report_skipped)) passed, $report_failed failed, $report_skipped skipped"
    [[ $report_failed -eq 0 ]]
}
