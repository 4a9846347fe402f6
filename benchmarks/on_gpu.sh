#!/usr/bin/env bash
# Checks and measurements that need a GPU, one step after the other. Records go to results/.
#
#   benchmarks/on_gpu.sh DIR [STEP …]       DIR holds photos of ImageNet size. Steps: tests decoders bench precisions
#                                           compile peers peers_resnet five cold scale waterfall nine. Default: all, an
#                                           hour or two.
#
# A step that fails is named at the end, and the others run all the same. PYTHON: the interpreter, by default .venv's.
# To try this script without a GPU: DEVICE=cpu IMAGES=16 (by default cuda and 12800).
set -uo pipefail
photos=$(realpath "${1:?the folder of photos}")
shift
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=
images=${IMAGES:-12800} device=${DEVICE:-cuda}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
records=$PWD/benchmarks/results/$(date +%F)-$device.jsonl
failed=()

fastclip() { (cd "$work" && "$python" -m fastclip "$@"); }
program() { "$python" "benchmarks/$1.py" --photos "$photos" --device "$device" "${@:2}"; }

# Files in two classes, sharded: what `fastclip bench` measures with.
dataset() {
    [ -e "$work/sharded" ] && return
    "$python" - "$photos" "$work/photos" "$images" <<'PYTHON'
import sys
from pathlib import Path
sys.path.insert(0, "benchmarks")
from common import copy_photos
copy_photos(Path(sys.argv[1]), int(sys.argv[3]), Path(sys.argv[2]))
PYTHON
    fastclip shard photos --source "$work/photos" --no-verify && touch "$work/sharded"
}
bench() { dataset && fastclip bench photos --random-weights --device "$device" --images "$images" --json "$records" "$@"; }

if [ "$device" != cpu ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "PyTorch sees no GPU here: look at nvidia-smi, or DEVICE=cpu IMAGES=16 to try this script." >&2
    exit 1
fi

step() {
    case $1 in
    tests) "$python" -m pytest -q -rs -m gpu tests/test_pixels.py tests/test_embed.py tests/test_evaluate.py ;;
    decoders) program decoders --images $((images * 2)) ;;
    bench)
        for name in ViT-B/32 RN50 ViT-B/16 ViT-L/14; do bench -b "$name" || return; done
        bench -b ViT-B/32 --workers 2 && bench -b ViT-B/32 --workers 5 && bench -b ViT-B/32 --batch-size 512 &&
            bench --all-backbones --rounds 2
        ;;
    precisions) program precisions --batch-size 32 --backbones RN50 ViT-B/32 RN50x16 RN50x64 ViT-L/14 ViT-L/14@336px ;;
    compile) for name in ViT-B/32 RN50 ViT-L/14 RN50x64; do bench -b "$name" --compile on || return; done ;;
    peers) program peers --images "$images" --backbones ViT-B/32 ;;
    peers_resnet) program peers --images "$images" --backbones RN50 ;;
    five) program peers --images $((images / 2)) --five ;;
    cold) program peers --images "$images" --cold --backbones ViT-B/32 ;;
    scale) program scale --images $((images / 4)) ;;
    waterfall) program waterfall --images $((images / 2)) ;;
    nine) program waterfall --images $((images / 8)) --backbones RN50 RN101 RN50x4 RN50x16 RN50x64 ViT-B/32 ViT-B/16 ViT-L/14 \
        ViT-L/14@336px --bars 5 7 ;;
    *) echo "There is no step $1." >&2 && return 2 ;;
    esac
}

for name in "${@:-tests decoders bench precisions compile peers peers_resnet five cold scale waterfall nine}"; do
    for each in $name; do
        echo "== $each"
        started=$SECONDS
        step "$each" || failed+=("$each")
        echo "== $each: $((SECONDS - started)) s"
    done
done
"$python" benchmarks/tables.py
[ ${#failed[@]} -eq 0 ] || { echo "Failed: ${failed[*]}" >&2; exit 1; }
