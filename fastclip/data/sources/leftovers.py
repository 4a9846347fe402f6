"""Names that programs leave beside images: each is known by a rule, and none is an image of the set or a class."""

from __future__ import annotations

import posixpath
import re
from functools import lru_cache

FOLDERS = {
    "macOS": ("__macosx", "network trash folder", "temporary items"),
    "Windows": ("$recycle.bin", "system volume information", "recycler"),
    "a file server": ("lost+found", "#recycle", "#snapshot", "_vti_cnf", "aquota"),
    "version control": ("cvs", "_darcs"),
    "Python": ("__pycache__",),
    "a photo program": ("thumbnails", "_thumbnails", "_thumbs"),
}
"""Maker → folders in lower case that it leaves behind, with all that is in them."""

FILES = {
    "macOS": r"icon\r",
    "Windows": r"(ehthumbs.*|thumbs)\.db(:encryptable)?|desktop\.ini|folder\.htt|.*\.(lnk|url)|~\$.*",
    "a photo program": r"picasa\.ini|zbthumbnail\.info|.*\.(thm|xmp|aae)",
    "an editor": r".*~|#.*#|.*\.(swp|swo|bak|orig)",
    "Python": r".*\.(py|pyc|pyo|ipynb)",
}
"""Maker → names of files in lower case."""

_ANY_FILE = re.compile("|".join(f"({names})" for names in FILES.values()), re.IGNORECASE)

TEXTS = re.compile(
    r"(readme|licen[cs]e|copying|notice|citation|changelog|authors|contributors|manifest|version|todo|"
    r"(md5|sha1|sha256|sha512)(sums?)?|checksums?|makefile|dockerfile)([._-].*)?|"
    r".*\.(txt|md|rst|tex|bib|pdf|docx?|rtf|html?|css|js|csv|tsv|xlsx?|ods|jsonl?|ndjson|geojson|ya?ml|toml|ini|cfg|conf|xml|"
    r"xsd|log|mat|npy|npz|pkl|pickle|pt|pth|h5|hdf5|parquet|arrow|feather|db|sqlite3?|mdb|lock|idx|index|names|lst|list|"
    r"sh|bat|ps1|m|r|c|h|cpp|java|lua|pl|md5|sha1|sha256|sha512|asc|sig|torrent|vtt|srt|cls)"
)
"""Names, in lower case, of texts, tables and programs that describe a set."""


def leftover(path: str) -> str | None:
    """The rule by which a file is known as left over, as a reason; None for a file that may be an image."""
    folder, _, name = path.rpartition("/")
    if rule := _of_folders(folder):
        return rule
    if name.startswith("."):
        return "a hidden file"
    if not _ANY_FILE.fullmatch(name):
        return None
    maker = next(maker for maker, names in FILES.items() if re.fullmatch(names, name, re.IGNORECASE))
    return f"left by {maker}"


def is_text(path: str) -> bool:
    """Whether a file's name is one of a text, a table or a program."""
    return TEXTS.fullmatch(posixpath.basename(path).casefold()) is not None


@lru_cache(maxsize=1 << 16)  # many files lie in few folders
def _of_folders(path: str) -> str | None:
    for folder in path.split("/"):
        if folder.startswith("."):
            return "in a hidden folder"
        if folder.startswith("@"):
            return "left by a file server"  # @eaDir, @Recycle, @Recently-Snapshot, @__thumb
        lower = folder.casefold()
        if rule := next((f"left by {maker}" for maker, names in FOLDERS.items() if lower in names), None):
            return rule
    return None


NO_IMAGE = "no image, and in no class folder"


def known_reason(path: str) -> str | None:
    """The rule that knows the name of a file that is no image; None if none does."""
    return leftover(path) or ("a text, a table or a program" if is_text(path) else None)


def reason_of(path: str) -> str:
    """Why a file that is no image is in no shard: the rule that knows its name, or that none does."""
    return known_reason(path) or NO_IMAGE
