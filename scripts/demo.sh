#!/usr/bin/env bash
# Embeds the documents of examples/semantic-search (or of the folder given) with a real model, kills
# the process with SIGKILL about half way, starts it again, and asks the finished index a question.
# Called by `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${TIDEMILL_BIN:-target/release/tidemill}
model=${TIDEMILL_MODEL:-.models/all-MiniLM-L6-v2}
documents=${1:-examples/semantic-search/docs}
question=${2:-How did millers use the tide at night?}
pipeline=examples/semantic-search/pipeline.yaml
folder=$(mktemp -d)
up=''

finish() {
    [ -z "$up" ] || kill -9 "$up" 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT

if [ -t 1 ]; then bold=$'\e[1m' red=$'\e[31m' plain=$'\e[0m'; else bold='' red='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
fail() {
    printf '\n%s%s%s\n' "$red" "$1" "$plain" >&2
    tail -n 20 "$folder/up.log" >&2
    exit 1
}

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export TIDEMILL_ENGINE=127.0.0.1:$port

start() {
    "$binary" up --data "$folder/data" --listen "$TIDEMILL_ENGINE" >>"$folder/up.log" 2>&1 &
    up=$!
    disown "$up" # so that the shell says nothing when it is killed
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        kill -0 "$up" 2>/dev/null || fail 'tidemill up ended'
        sleep 0.05
    done
}

# Chunks that the embedding step has done, and all of them: "3 9".
progress() {
    "$binary" show demo --json | python3 -c '
import json, sys
for node in json.load(sys.stdin)["nodes"]:
    for step in node.get("steps", []):
        if step["uses"] == "embed.text":
            print(step["chunks_done"], step["chunks"])'
}

say "1. tidemill up: engine and workers in one process"
start
echo "   listening on $TIDEMILL_ENGINE, data in $folder/data"

say "2. tidemill run $pipeline: load, split, embed, upsert"
"$binary" run "$pipeline" --id demo --detach \
    --input folder="$(realpath "$documents")" --input model="$(realpath "$model")" --input part=3

done=0 all=0
until [ "$all" -gt 0 ] && [ $((2 * done)) -ge "$all" ]; do
    kill -0 "$up" 2>/dev/null || fail 'tidemill up ended'
    read -r done all < <(progress 2>/dev/null) || { done=0 all=0; }
    sleep 0.05
done
say "3. $done of $all chunks are embedded: kill -9"
kill -9 "$up"
while kill -0 "$up" 2>/dev/null; do sleep 0.02; done

say "4. tidemill up again: the run goes on where it was"
start
until "$binary" show demo >"$folder/state.txt" 2>&1; do sleep 0.1; done
tail -n +5 "$folder/state.txt"
echo "   ..."
# The chunks that were under way begin again when their worker has been silent for 30 seconds.
"$binary" logs demo --follow >"$folder/logs.txt"
"$binary" show demo | tail -n +5
"$binary" ps | grep -q '^done' || fail 'the run did not end well'

say "5. tidemill search: $question"
"$binary" search "$question" --data "$folder/data" --index documents \
    --model "$(realpath "$model")" --limit 3
