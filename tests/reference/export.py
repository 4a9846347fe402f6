"""Exports class folders as CLIP_benchmark does, with its own exporter: a split for each domain, files as they are."""

import sys
from pathlib import Path

from clip_benchmark.webdataset_builder import convert_dataset, path_to_bytes

source, out, *splits = sys.argv[1:]
classes = sorted({folder.name for folder in Path(source).glob("*/*")})


class Files(list):
    """(path, label) of a domain's images, and what the exporter asks of a dataset beside that."""

    templates = ("a photo of a {c}.",)


Files.classes = [name.replace("_", " ") for name in classes]
for split in splits:
    paths = sorted(Path(source, split).glob("*/*"))
    files = Files((str(path), classes.index(path.parent.name)) for path in paths)
    convert_dataset(files, split, out, transform=path_to_bytes, max_count=25, verbose=False)
