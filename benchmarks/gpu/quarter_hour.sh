#!/usr/bin/env bash
# The most valuable figures of one GPU in a quarter of an hour, in two calls from the repository's root:
#
#   benchmarks/gpu/quarter_hour.sh a     needs .gpu, which prepare.sh fills; keeps what b needs under WORK
#   benchmarks/gpu/quarter_hour.sh b
#
# Every part has a time limit, and none stops another. Figures go to OUT/probe.jsonl and OUT/bench.jsonl as soon as they
# are known. To rehearse without a GPU: DEVICE=cpu IMAGES=16 BATCH=8 NAMES=ViT-B/32. Others: PYTHON, OUT, WORK.
set -uo pipefail
cd "$(dirname "$0")/../.."
export OUT=${OUT:-$(mktemp -d)} DEVICE=${DEVICE:-cuda} WORK=${WORK:-/tmp/gpu-run} PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD:$WORK/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export HF_HUB_OFFLINE=1 CUDA_MODULE_LOADING=LAZY COLUMNS=100
images=${IMAGES:-10240} batch=${BATCH:-256} names=${NAMES:-}
packed=$PWD/.gpu
mkdir -p "$OUT" "$WORK"

part() { # SECONDS COMMAND…: shows the end of what it prints, and returns how it ended
    local began=$SECONDS limit=$1 ended
    shift
    echo "== $*" | cut -c1-140
    timeout -k 5 "$limit" "$@" 2>&1 | tail -n 40
    ended=${PIPESTATUS[0]}
    echo "== $((SECONDS - began)) s of $limit, exit code $ended"
    return "$ended"
}
probe() { # LIMIT BEGIN STEP [OPTION …]: a step that begins nothing after BEGIN seconds and ends after LIMIT
    part "$1" "$PYTHON" benchmarks/gpu/probe.py "$WORK/photos" "$OUT/probe.jsonl" "$3" --device "$DEVICE" \
        --seconds "$2" --batch "$batch" ${names:+--names $names} "${@:4}"
}
fastclip() { cd "$WORK" && "$PYTHON" -m fastclip "$@"; }
export -f fastclip
fast() { part "$1" bash -c 'fastclip "$@"' fastclip "${@:2}"; }

a() {
    [ -d "$WORK/site" ] || { mkdir "$WORK/site" && tar -xJf "$packed/site.tar.xz" -C "$WORK/site"; }
    [ -d "$WORK/peer" ] || { mkdir "$WORK/peer" && tar -xJf "$packed/peer.tar.xz" -C "$WORK/peer"; }
    # Else every process compiles them anew, in its own time.
    part 40 "$PYTHON" -m compileall -q -j 0 "$WORK/site" "$WORK/peer" fastclip
    local folder
    mkdir -p ../shared/data # where the tests look for images
    for folder in "$WORK/photos" ../shared/data/photos ../shared/data/pacs-mini; do
        [ -d "$folder" ] || cp -r "$packed/$(basename "$folder")" "$folder"
    done
    rm -f "$WORK/dali-decodes"
    probe 60 60 dali && touch "$WORK/dali-decodes"
    probe 40 20 machine
    part 110 "$PYTHON" -m pytest -v --tb=short -rs -m gpu -n 4 -p no:cacheprovider tests/test_pixels.py \
        tests/test_embed.py tests/test_evaluate.py tests/test_odd_images.py tests/test_heads_on_device.py
    probe 80 60 decode --images $((images * 6 / 10))
    probe 40 10 parity
    probe 130 110 towers
}

b() {
    local decoder=(--decoder torchvision) half=fp16 round tars
    [ -e "$WORK/dali-decodes" ] && decoder=()
    [ "$DEVICE" = cpu ] && half=bf16
    part 60 "$PYTHON" - "$WORK" "$images" <<'PYTHON'
import sys
from pathlib import Path
sys.path.insert(0, "benchmarks")
from common import copy_photos, save_random_weights
work = Path(sys.argv[1])
copy_photos(work / "photos", int(sys.argv[2]), work / "source" / "many")
save_random_weights("ViT-B/32", work / "b32.safetensors")
PYTHON
    fast 60 shard many --source source/many --no-verify --shard-images 1024
    fast 75 bench many -b ViT-B/32 --random-weights --device "$DEVICE" "${decoder[@]}" --images "$images" --rounds 3 \
        --json "$OUT/bench.jsonl"
    for round in 1 2; do
        fast 45 eval many -b ViT-B-32-quickgelu --weights b32.safetensors --prompts photo --device "$DEVICE" \
            "${decoder[@]}" --store "embeddings$round"
    done
    part 60 "$PYTHON" benchmarks/plain_loop.py --images "$WORK/source/many" --architecture ViT-B-32-quickgelu \
        --weights "$WORK/b32.safetensors" --device "$DEVICE" --precision $half --workers 16 --batch-size "$batch"
    tars=$(find "$WORK/shards" -name '*.tar' | wc -l)
    echo "a photo of a {c}." >"$WORK/shards/many/zeroshot_classification_templates.txt"
    part 60 env PYTHONPATH="$WORK/peer:$WORK/site" "$PYTHON" -m clip_benchmark.cli eval --dataset wds/many --split all \
        --dataset_root "$WORK/shards/many" --task zeroshot_classification \
        --pretrained_model "ViT-B-32-quickgelu,$WORK/b32.safetensors" --output "$OUT/peer.json" \
        --num_workers $((tars < 8 ? tars : 8)) --batch_size "$batch"
    probe 30 25 products
    probe 90 60 compiled
    [ "$DEVICE" = cpu ] && return # it would take hours
    fast 150 bench many --all-backbones --random-weights --device "$DEVICE" "${decoder[@]}" --images 1024 --rounds 2 \
        --json "$OUT/bench.jsonl"
}

case ${1:-} in
a | b) "$1" ;;
*) echo "benchmarks/gpu/quarter_hour.sh a | b" >&2 && exit 2 ;;
esac
