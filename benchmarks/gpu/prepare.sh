#!/usr/bin/env bash
# Fills .gpu, which git ignores, with all that a machine with a GPU, Python 3.12 and torch lacks: packages and images.
#
#   benchmarks/gpu/prepare.sh DATA [PHOTOS]      DATA holds photos/ and pacs-mini/; PHOTOS of them (120) are taken
#
# Needs pip, gcc, binutils, xz and zstd. Downloads some hundred MB once, and takes about five minutes.
set -euo pipefail
shopt -s inherit_errexit
data=$(realpath "${1:?a folder with photos/ and pacs-mini/}") count=${2:-120}
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pinned() { # FILE NAME…: the versions that a file of requirements names
    local file=$1
    shift
    for name; do grep -m1 -o "^$name==[^ ]*" "$file"; done
}
download() { python3 -m pip download --quiet --no-deps --only-binary=:all: "$@"; }
unpack() { for wheel in "$1"/*.whl; do python3 -m zipfile -e "$wheel" "$2"; done; }
pack() { # FOLDER, to standard output: the same files give the same bytes
    tar --sort=name --owner=0 --group=0 --mtime=2026-01-01 -C "$1" -c .
}

images() {
    rm -rf .gpu/photos .gpu/pacs-mini
    mkdir -p .gpu/photos
    find "$data/photos" -type f | sort | shuf --random-source=<(yes) -n "$count" | xargs -d '\n' cp -t .gpu/photos
    local folder
    (cd "$data" && find pacs-mini -mindepth 2 -type d) | while read -r folder; do
        mkdir -p ".gpu/$folder"
        find "$data/$folder" -type f | sort | sed -n 1,3p | xargs -d '\n' cp -t ".gpu/$folder"
    done
}

packages() {
    [ -e .gpu/site.tar.xz ] && return
    local names=(nvidia-dali-cuda130 nvidia-nvimgcodec-cu13 nvidia-nvjpeg astunparse gast optree open-clip-torch ftfy
        wcwidth indexed-gzip webdataset braceexpand beartype)
    local platforms=(--platform any --platform manylinux1_x86_64 --platform manylinux2014_x86_64) glibc
    for glibc in 17 24 26 27 28 31 34 35 39; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
    local wanted
    wanted=$(pinned constraints.txt "${names[@]}")
    download --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none "${platforms[@]}" \
        -d "$work/wheels" $wanted
    unpack "$work/wheels" "$work/site"
    find "$work/site" -name '*.cpython-*.so' ! -name '*cpython-312-*' -delete
    python3 benchmarks/gpu/trim_dali.py "$work/site"
    pack "$work/site" | xz --x86 --lzma2=preset=9e,dict=192MiB >"$work/site.tar.xz"
    mv "$work/site.tar.xz" .gpu/
}

# CLIP_benchmark, with empty classes in the place of pycocoevalcap (100 MB, for captions), and mended for NumPy 2.4.
peer() {
    [ -e .gpu/peer.tar.xz ] && return
    download -d "$work/peers" "$(pinned tests/reference/requirements.txt clip-benchmark)"
    unpack "$work/peers" "$work/peer"
    sed -i 's/float().sum(0, keepdim=True).cpu().numpy())/float().sum(0, keepdim=True).item())/' \
        "$work/peer/clip_benchmark/metrics/zeroshot_classification.py"
    local captions=$work/peer/pycocoevalcap module
    for module in tokenizer/ptbtokenizer:PTBTokenizer bleu/bleu:Bleu meteor/meteor:Meteor rouge/rouge:Rouge \
        cider/cider:Cider spice/spice:Spice; do
        mkdir -p "$captions/$(dirname "${module%:*}")"
        touch "$captions/__init__.py" "$captions/$(dirname "${module%:*}")/__init__.py"
        echo "${module#*:} = None" >"$captions/${module%:*}.py"
    done
    pack "$work/peer" | xz -6 >"$work/peer.tar.xz"
    mv "$work/peer.tar.xz" .gpu/
}

images
packages
peer
du -sh .gpu/*
tracked=$(git ls-files -coz --exclude-standard | du -cb --files0-from=- | tail -1 | cut -f1)
echo "To send: $(((tracked + $(du -sb .gpu | cut -f1)) / 1048576)) MiB, the repository and .gpu."
