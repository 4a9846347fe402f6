"""A Hugging Face dataset as a source: one configuration's files, fetched into a folder that is then read as any other.

hf://datasets/ORG/NAME[@REVISION][/CONFIGURATION]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from fsspec.utils import glob_translate

from fastclip.data.catalogue import Download
from fastclip.data.download.files import download, files_of_repository, hub_error
from fastclip.data.sources.splits import WORDS
from fastclip.errors import UserError
from fastclip.storage.transfer import FetchOptions, RemoteFile, Watch, options_from_environment

HUB = "hf://"

ADDRESS = re.compile(
    r"hf://datasets/(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>refs/\w+/[^/]+|[^/]+))?(/(?P<configuration>.+?))?/?"
)

NUMBERED = re.compile(r"-\d+-of-\d+(-[0-9a-f]{16})?$")
"""How the files of one split are told apart in their names."""

DEFAULT = "default"
"""The name of the one configuration of a repository that names none."""

Splits = Mapping[str, Sequence[RemoteFile]]
"""Split → its files. Files of no split stand under ""."""


def fetch_hub_source(
    url: str,
    split: str | None,
    downloads: Path,
    options: FetchOptions | None = None,
    watch: Watch = lambda now, count: None,
) -> Path:
    """The folder below `downloads` with the files at `url`, fetched. It is another one for every commit and choice.

    An interrupted fetch goes on, and what is there is not fetched again. Raises `UserError` where a configuration or a
    split must be named.
    """
    options = options or options_from_environment()
    place, files = _find(url, split, options)
    download(files, downloads / place, options, watch)
    return downloads / place


def _find(url: str, split: str | None, options: FetchOptions) -> tuple[str, list[RemoteFile]]:
    """The place below `downloads` for the wanted files at `url`, and these files. Asks Hugging Face which there are."""
    address = ADDRESS.fullmatch(url)
    if address is None:
        raise UserError(
            f"{url} is no dataset of Hugging Face.", fix="--source hf://datasets/ORG/NAME[@REVISION][/CONFIGURATION]"
        )
    repository, wanted = address["repository"], address["configuration"]
    commit, declared = _ask(repository, address["revision"], options)
    files = files_of_repository(Download(url=f"hf://datasets/{repository}@{commit}"), options)
    configurations = _declared(declared, files, url) if declared else _inferred(files)
    plain = url.rstrip("/").removesuffix(f"/{wanted}")
    name = _choose(configurations, wanted, plain)
    splits = configurations[name]
    _check_whole(splits, url)
    if split is not None and split not in splits:
        known = ", ".join(filter(None, splits)) or "none that its files name"
        raise UserError(f"{url} has no split {split!r}.", fix=f"Its splits: {known}. Leave out --split to take all.")
    chosen = {split: splits[split]} if split is not None else splits
    # A choice is a folder beside the others: it holds nothing but the files of this one.
    choice = "@".join(quote(part, safe="").replace(".", "%2E") for part in (name, split) if part is not None)
    place = f"{repository.replace('/', '--')}/{commit[:12]}/{choice}"
    return place, [file for each, of in chosen.items() for file in _in_split(each, of)]


def _ask(repository: str, revision: str | None, options: FetchOptions) -> tuple[str, list[Mapping[str, Any]]]:
    """The commit that `revision` is, and the configurations that the repository's README declares."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(repository, revision=revision, timeout=options.timeout_s)
    except Exception as error:  # offline, unknown, gated, a proxy's page: the hub's client has a type for each
        at = f"@{revision}" if revision else ""
        raise hub_error(f"hf://datasets/{repository}{at}", error) from error
    rows = (info.card_data.to_dict() if info.card_data else {}).get("configs") or []
    return str(info.sha), [row for row in rows if isinstance(row, Mapping)]


def _choose(configurations: Mapping[str, Splits], wanted: str | None, url: str) -> str:
    if wanted in configurations:
        return str(wanted)
    if wanted is None and len(configurations) == 1:
        return next(iter(configurations))
    names = ", ".join(sorted(configurations))
    if not names:
        raise UserError(
            f"{url} holds no data that fastclip reads.",
            fix=f"Try what Hugging Face made of it: --source {url.partition('@')[0]}@refs/convert/parquet",
        )
    problem = f"has no configuration {wanted!r}" if wanted else f"has {len(configurations)} configurations"
    raise UserError(f"{url} {problem}: {names}.", fix=f"Choose one: --source {url}/{min(configurations)}")


def _declared(rows: Sequence[Mapping[str, Any]], files: Sequence[RemoteFile], url: str) -> dict[str, Splits]:
    """The configurations that a README declares: each split has paths with `*`, below the configuration's folder."""
    found: dict[str, Splits] = {}
    for row in rows:
        below = PurePosixPath(row.get("data_dir") or "")
        name, given = str(row.get("config_name", DEFAULT)), row.get("data_files")
        if given is None:
            inside = [file for file in files if PurePosixPath(file.name).is_relative_to(below)]
            found[name] = _by_split(_data(inside))
            continue
        splits: dict[str, Sequence[RemoteFile]] = {}
        for split, patterns in _patterns(given):
            forms = [re.compile(glob_translate(str(below / pattern))) for pattern in patterns]
            splits[split] = [file for file in files if any(form.match(file.name) for form in forms)]
            if not splits[split]:
                raise UserError(
                    f"{url}: the split {split!r} of {name} is {' '.join(patterns)} by its README, and no such file is "
                    "there.",
                    fix="Name a commit that is whole, NAME@COMMIT, or another configuration.",
                )
        found[name] = splits
    return found


def _patterns(given: Any) -> list[tuple[str, list[str]]]:
    """(split, patterns) in any of the forms that a README may give `data_files` in. Without a split it is `train`."""
    if isinstance(given, Mapping):
        return [(str(split), _texts(paths)) for split, paths in given.items()]
    if isinstance(given, list) and all(isinstance(row, Mapping) for row in given):
        return [(str(row.get("split", "train")), _texts(row.get("path", []))) for row in given]
    return [("train", _texts(given))]


def _texts(paths: Any) -> list[str]:
    return [str(path).removeprefix("./") for path in (paths if isinstance(paths, list) else [paths])]


def _inferred(files: Sequence[RemoteFile]) -> dict[str, Splits]:
    """The configurations by folders: of Parquet files, each top folder is one that is not `data` or a split."""
    data = _data(files)
    found: dict[str, list[RemoteFile]] = {}
    for file in data:
        top, slash, _ = file.name.partition("/")
        own = slash and file.name.endswith(".parquet") and top not in ("data", *WORDS)
        found.setdefault(top if own else DEFAULT, []).append(file)
    return {name: _by_split(of) for name, of in found.items()}


def _data(files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """The Parquet files, or else all but pages and programs."""
    tables = [file for file in files if file.name.endswith(".parquet")]
    others = [file for file in files if not file.name.casefold().endswith((".md", ".py", "license", ".gitignore"))]
    return tables or others


def _by_split(files: Sequence[RemoteFile]) -> Splits:
    found: dict[str, list[RemoteFile]] = {}
    for file in files:
        found.setdefault(_split_of(file.name), []).append(file)
    return found


def _split_of(path: str) -> str:
    """The split that a path names: of a Parquet file as `list_parquet` reads it, of another one by a usual word."""
    *folders, last = PurePosixPath(path).parts
    stem = NUMBERED.sub("", PurePosixPath(last).stem)
    if path.endswith(".parquet"):
        return folders[-1] if stem.isdecimal() and folders else stem
    return next((word for word in (*folders, re.split(r"[-_.]", stem)[0]) if word in WORDS), "")


def _in_split(split: str, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """`files`, with Parquet files whose names are of another split than the README says put into a folder of it."""
    return [
        replace(file, name=f"{split}/{number:05}.parquet")
        if file.name.endswith(".parquet") and _split_of(file.name) != split
        else file
        for number, file in enumerate(files)
    ]


def _check_whole(splits: Splits, url: str) -> None:
    """Raise `UserError` for the first gigabytes of a set, which Hugging Face converts of a large one."""
    names = [file.name for files in splits.values() for file in files if "partial-" in file.name]
    if names:
        raise UserError(
            f"{url} holds the beginning of the set only ({names[0]}).", fix="Leave out @refs/convert/parquet."
        )
