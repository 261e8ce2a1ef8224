#!/usr/bin/env bash
# Runs a workflow of five steps and kills the engine with SIGKILL in the third. Called by `make demo-engine`.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${TIDEMILL_BIN:-target/release/tidemill}
python=${PYTHON_BIN:-.venv/bin/python}
example=examples/hello-durable
folder=$(mktemp -d)
export LEDGER="$folder/ledger.txt"
engine='' worker='' starter=''

finish() {
    for pid in $starter $worker $engine; do kill -9 "$pid" 2>/dev/null || true; done
    rm -rf "$folder"
}
trap finish EXIT

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; else bold='' dim='' red='' green='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
indent() { sed -u "s/^/  ${dim}$1${plain} /"; }

fail() {
    printf '\n%s%s%s\n' "$red" "$1" "$plain" >&2
    for log in "$folder"/*.log; do printf '%s:\n' "$(basename "$log")" >&2; tail -n 20 "$log" >&2; done
    exit 1
}

# wait_for SECONDS MESSAGE COMMAND...: until the command succeeds, or fail with the message.
wait_for() {
    local deadline=$((SECONDS + $1)) message=$2
    shift 2
    until "$@" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$message"
        sleep 0.05
    done
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$port"); }
step_begun() { grep -q "^$1 " "$LEDGER"; }
ended() { ! kill -0 "$1"; }

start_engine() {
    "$binary" engine --listen "127.0.0.1:$port" --data-file "$folder/demo.db" >>"$folder/engine.log" 2>&1 &
    engine=$!
    # Not a job of this shell, which would report the kill that the demo reports itself.
    disown "$engine"
    wait_for 20 "the engine did not come up" listening
}

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

say "1. The engine starts. All that it knows is in one file."
start_engine
echo "  tidemill engine --listen 127.0.0.1:$port --data-file demo.db   (process $engine)"

say "2. A worker and a workflow of five steps, with Temporal's Python SDK."
"$python" "$example/worker.py" "127.0.0.1:$port" > >(tee "$folder/worker.out" | indent 'worker  |') 2>"$folder/worker.log" &
worker=$!
disown "$worker"
"$python" "$example/start.py" "127.0.0.1:$port" > >(tee "$folder/start.out" | indent 'client  |') 2>"$folder/start.log" &
starter=$!
disown "$starter"

wait_for 60 "the third step did not begin" step_begun 3
sleep 0.3
say "3. kill -9 $engine: the engine is gone, in the middle of step 3."
kill -9 "$engine"
wait_for 10 "the engine did not die" ended "$engine"
sleep 1.5

say "4. The engine starts again on the same file."
start_engine
echo "  tidemill engine --listen 127.0.0.1:$port --data-file demo.db   (process $engine)"

wait_for 90 "the workflow did not complete" ended "$starter"
# What the client printed is judged, not its exit status: now and then a Python process that ends right
# after its last call aborts while the interpreter shuts down (temporalio 1.32.0, Python 3.11).
starter=''
wait_for 5 "the client printed no result" grep -q '^result: ' "$folder/start.out"

say "5. How often each step's code ran:"
sort "$LEDGER" | uniq -c | while read -r times number name; do printf '  step %s  %-8s %sx\n' "$number" "$name" "$times"; done

grep -q '^result: fetch -> extract -> chunk -> embed -> publish$' "$folder/start.out" || fail "the result is wrong"
[ "$(wc -l <"$LEDGER")" -eq 5 ] && [ "$(sort -u "$LEDGER" | wc -l)" -eq 5 ] || fail "a step did not run exactly once"
printf '\n%sThe workflow survived the crash, and no step ran twice.%s\n' "$green" "$plain"
