"""Usual names of folders: those that say nothing, and those of domains, views and parts, which are no classes."""

from __future__ import annotations

import re

WRAPPERS = frozenset(
    ("images", "image", "imgs", "img", "jpg", "jpeg", "jpegs", "jpegimages", "png", "pictures", "data")
)
"""Folders, in lower case, that say nothing where a folder holds nothing else."""

BESIDE = WRAPPERS | {
    "masks", "annotations", "trimaps", "segmentation", "segmentations", "segmentationclass", "segmentationobject",
    "groundtruth", "gt", "labels",
}  # fmt: skip
"""Folders, as `same_name` has them, that are no class and no domain where others lie beside them."""

PART = re.compile(
    r"(part|video|vid|clip|seq|sequence|session|burst|batch|instance|object|obj|item|take|shot|frames?|group|fold|scene|"
    r"subject|person|camera|chunk|folder|subdir|dir|set)s?[-_ ]?[a-z]?\d*",
    re.IGNORECASE,
)
"""Names of parts: `video_12`."""

ID = re.compile(
    r"(?!n\d{8}$)"  # WordNet's numbers are classes
    rf"([a-z]|[a-z]{{0,4}}[-_ ]?\d[\d_.-]*|[0-9a-f]{{8,}}|[0-9a-f]{{8}}-[0-9a-f-]+|{PART.pattern})",
    re.IGNORECASE,
)
"""Names that tell things of one class apart: a letter, numbers, parts."""

COUNTED = frozenset(("class", "cls", "label", "category", "type", "grade", "stage", "level", "sample", "digit"))
"""Words, in lower case, before numbers that tell classes apart, not parts: `grade_3`."""

DOMAINS = {
    "photo", "photos", "art", "artpainting", "painting", "cartoon", "sketch", "clipart", "infograph", "quickdraw",
    "real", "realworld", "product", "amazon", "webcam", "dslr", "caltech", "caltech101", "labelme", "sun09",
    "voc2007", "day", "night", "indoor", "outdoor", "synthetic", "source", "target", "foggy", "rainy", "snowy",
    "summer", "winter",
}  # fmt: skip
"""Names, as `same_name` has them, that are of domains and hardly of classes."""

VIEWS = {
    "front", "back", "rear", "left", "right", "top", "bottom", "side", "near", "far", "closeup", "inside", "outside",
    "original", "augmented", "raw", "cropped", "color", "gray", "grayscale", "segmented", "small", "medium", "large",
    "easy", "hard", "low", "high", "sunny", "cloudy", "dim", "bright", "dark", "grass", "ongrass", "water", "inwater",
    "rock", "snow", "onsnow", "beach", "onbeach", "forest", "autumn",
}  # fmt: skip
"""Names, likewise, of views and places that several classes may be seen in."""
