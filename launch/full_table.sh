#!/bin/bash
# launch/full_table.sh PROCESSES
#
# The published table: eight datasets, all nine backbones, the prompts that it was made with. PROCESSES is the number of
# GPUs of this machine, or 1. Writes full_table.json (counts and settings) and full_table.txt. Run it again to go on.
#
# In the environment: DATASETS="pacs vlcs", BACKBONES="-b ViT-B/32", SHARDS and STORE (folders), OUT (path without
# ending), EVAL="--unreadable wrong" (any other options of `fastclip eval`).
set -euo pipefail

fail() {
    printf 'Error: %s\nFix:   %s\n' "$1" "$2" >&2
    exit 2
}

launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH="$launch/../.venv/bin:$PATH"
[[ $# -eq 1 && $1 =~ ^[1-9][0-9]*$ ]] || fail "How many processes?" "launch/full_table.sh PROCESSES, one a GPU"
command -v fastclip >/dev/null || fail "There is no fastclip on the path." "See README.md for how to set up .venv."

shards=${SHARDS:-shards}
out=${OUT:-full_table}
read -ra datasets <<<"${DATASETS:-officehome office31 pacs vlcs domainnet terraincognita visda17 imagenet-r}"
read -ra backbones <<<"${BACKBONES:---all-backbones}"
read -ra more <<<"${EVAL:-}"

missing=()
for name in "${datasets[@]}"; do
    # Shards at an address are looked for by `fastclip eval`.
    [[ $shards == *://* || -f $shards/$name/manifest.json ]] || missing+=("$name")
done
((${#missing[@]} == 0)) ||
    fail "Not sharded in $shards: ${missing[*]}." "fastclip shard NAME --source PATH for each, or DATASETS=\"pacs vlcs\""

evaluate=(eval "${datasets[@]}" "${backbones[@]}" --prompts transferlearning --shards "$shards"
    --store "${STORE:-embeddings}" "${more[@]}")
accelerate launch --config_file "$launch/eight_gpus.yaml" --num_processes "$1" --main_process_port 0 \
    --max_restarts 3 -m fastclip "${evaluate[@]}" >/dev/null ||
    echo "The launcher ended with $?; one process now says why, or does what is left." >&2

# This embeds nothing any more. It ends with fastclip's own exit code; the launcher turns any code but 0 into 1.
code=0
COLUMNS=${COLUMNS:-120} fastclip "${evaluate[@]}" --json "$out.json" >"$out.txt.part" || code=$?
cat "$out.txt.part"
if [[ -s $out.txt.part ]]; then mv "$out.txt.part" "$out.txt"; else rm "$out.txt.part"; fi
exit "$code"
