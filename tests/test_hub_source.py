"""Datasets of Hugging Face as sources, from a hub that runs here: one configuration at one commit, or two lines."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import Program, image_bytes
from servers import Server, answer, file_route, serving, status

from fastclip.data.sources.hub import fetch_hub_source
from fastclip.errors import FastclipError, IncompleteError, UserError
from fastclip.storage.transfer import FetchOptions

COMMIT = "c0ffee" * 6 + "beef"
NAMES = ("cat", "dog")
URL = "hf://datasets/doe/pets"
HASTY = FetchOptions(timeout_s=2.0, retries=1)


@dataclass
class Hub:
    """A hub with the dataset doe/pets: the addresses that its client and fastclip ask."""

    site: Server
    files: dict[str, bytes] = field(default_factory=dict)

    def publish(self, configs: list[Mapping[str, Any]] | None = None, revision: str = "main") -> None:
        card = {"configs": configs} if configs else {}
        info = json.dumps({"id": "doe/pets", "sha": COMMIT, "siblings": [], "cardData": card}).encode()
        tree = [{"type": "file", "path": path, "size": len(data), "oid": "1" * 40} for path, data in self.files.items()]
        api = "/api/datasets/doe/pets"
        named = revision.replace("/", "%2F")
        for path in (api, f"{api}/revision/{named}", f"{api}/revision/{COMMIT}"):
            self._say(path, info)
        self._say(f"{api}/tree/{COMMIT}", json.dumps(tree).encode())
        for path, data in self.files.items():
            self.site.routes[f"/datasets/doe/pets/resolve/{COMMIT}/{path}"] = file_route(data)

    def _say(self, path: str, body: bytes) -> None:
        self.site.routes[path] = lambda handler: answer(handler, 200, body, Content_Type="application/json")

    def fetched(self) -> list[str]:
        return [asked.path.partition(f"{COMMIT}/")[2] for asked in self.site.asked if "/resolve/" in asked.path]


def table(*labels: int) -> bytes:
    """A Parquet file as Hugging Face saves it, an image a label."""
    features = {"label": {"names": list(NAMES), "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    images = [{"bytes": image_bytes(size=(5 + label, 6 + row)), "path": None} for row, label in enumerate(labels)]
    rows = pa.table({"image": images, "label": list(labels)})
    file = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), file)
    return file.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving() as start:
        site = start()
        for module in ("constants", "hf_api", "file_download"):
            monkeypatch.setattr(f"huggingface_hub.{module}.ENDPOINT", site.url(""), raising=False)
        template = site.url("/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        yield Hub(site)


SIMPLE = {"README.md": b"pets", "data/train-00000-of-00001.parquet": table(0, 1, 1)}
SPLIT = {**SIMPLE, "data/test-00000-of-00001.parquet": table(1)}
SIZES = {f"{size}/{split}/0000.parquet": table(0, 1) for size in ("160px", "full_size") for split in ("train", "val")}


def files_in(folder: Path) -> list[str]:
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != "downloaded.json")


def test_a_dataset_is_sharded_from_the_hub_with_each_split_a_domain(hub: Hub, fastclip: Program):
    hub.files = SPLIT
    hub.publish()
    outcome = fastclip.here("shard", "pets", "--source", URL)
    assert outcome.code == 0, outcome.err
    manifest = json.loads((fastclip.folder / "shards/pets/manifest.json").read_bytes())
    assert manifest["classes"] == ["cat", "dog"]
    assert {each["name"]: each["class_images"] for each in manifest["domains"]} == {"test": [0, 1], "train": [1, 2]}
    again = fastclip.here("shard", "pets", "--source", URL, "--overwrite")
    assert again.code == 0 and sorted(hub.fetched()) == sorted(name for name in SPLIT if "parquet" in name)


def test_one_split_can_be_chosen_and_lies_in_a_folder_of_its_own(hub: Hub, tmp_path: Path):
    hub.files = SPLIT
    hub.publish()
    assert files_in(fetch_hub_source(URL, "test", tmp_path)) == ["data/test-00000-of-00001.parquet"]
    assert len(files_in(fetch_hub_source(URL, None, tmp_path))) == 2
    with pytest.raises(UserError, match="no split 'dev'") as raised:
        fetch_hub_source(URL, "dev", tmp_path)
    assert "test" in raised.value.fix and "train" in raised.value.fix


@pytest.mark.parametrize("declared", [False, True])
def test_one_configuration_of_several_must_be_named(hub: Hub, tmp_path: Path, declared: bool):
    hub.files = SIZES
    hub.publish([{"config_name": size, "data_dir": size} for size in ("160px", "full_size")] if declared else None)
    with pytest.raises(UserError, match="2 configurations: 160px, full_size") as raised:
        fetch_hub_source(URL, None, tmp_path)
    assert f"{URL}/160px" in raised.value.fix
    with pytest.raises(UserError, match="no configuration '320px'"):
        fetch_hub_source(f"{URL}/320px", None, tmp_path)
    assert not hub.fetched()
    folder = fetch_hub_source(f"{URL}/full_size", None, tmp_path)
    assert files_in(folder) == ["full_size/train/0000.parquet", "full_size/val/0000.parquet"]
    folder = fetch_hub_source(f"{URL}/160px", "val", tmp_path)
    assert files_in(folder) == ["160px/val/0000.parquet"]


@pytest.mark.parametrize(
    "data_files",
    [
        [{"split": "test", "path": "old/a-*.parquet"}, {"split": "train", "path": ["old/b.parquet", "new/*"]}],
        {"test": "old/a-*.parquet", "train": ["old/b.parquet", "./new/*"]},
    ],
)
def test_splits_are_those_that_the_readme_declares_whatever_files_are_called(
    hub: Hub, fastclip: Program, data_files: object
):
    hub.files = {"old/a-1.parquet": table(0), "old/b.parquet": table(1, 1), "new/test.parquet": table(0, 0, 0)}
    hub.files["unused/x.parquet"] = b"?"
    hub.publish([{"config_name": "default", "data_files": data_files}])
    outcome = fastclip.here("shard", "pets", "--source", URL)
    assert outcome.code == 0, outcome.err
    manifest = json.loads((fastclip.folder / "shards/pets/manifest.json").read_bytes())
    assert {each["name"]: each["class_images"] for each in manifest["domains"]} == {"test": [1, 0], "train": [3, 2]}


def test_without_a_split_the_readmes_files_are_train_and_missing_ones_are_refused(hub: Hub, tmp_path: Path):
    hub.files = {"a/one.parquet": table(0), "b/two.parquet": table(1)}
    hub.publish([{"data_files": ["a/*.parquet", "b/*.parquet"]}])
    assert files_in(fetch_hub_source(URL, "train", tmp_path)) == ["train/00000.parquet", "train/00001.parquet"]
    hub.publish([{"data_files": "c/*.parquet"}])
    with pytest.raises(UserError, match=r"c/\*\.parquet by its README"):
        fetch_hub_source(URL, None, tmp_path)


def test_folders_of_images_come_with_their_splits_and_pages_stay_there(hub: Hub, fastclip: Program):
    hub.files = {
        f"{s}/{c}/{n}.png": image_bytes(size=(5, 6 + n)) for s in ("test", "train") for c in NAMES for n in (1, 2)
    }
    hub.files |= {"README.md": b"pets", "load.py": b"raise SystemExit"}
    hub.publish()
    assert fastclip.here("shard", "pets", "--source", URL).code == 0
    manifest = json.loads((fastclip.folder / "shards/pets/manifest.json").read_bytes())
    assert {each["name"]: each["class_images"] for each in manifest["domains"]} == {"test": [2, 2], "train": [2, 2]}
    assert not {"README.md", "load.py"} & set(hub.fetched())
    assert len(files_in(fetch_hub_source(URL, "test", fastclip.folder / "d"))) == 4


def test_what_the_hub_converted_is_read_and_its_beginnings_are_refused(hub: Hub, tmp_path: Path):
    hub.files = {"default/train/0000.parquet": table(0, 1)}
    hub.publish(revision="refs/convert/parquet")
    folder = fetch_hub_source(f"{URL}@refs/convert/parquet/default", None, tmp_path)
    assert files_in(folder) == ["default/train/0000.parquet"]
    hub.files = {"default/partial-train/0000.parquet": table(0, 1)}
    hub.publish(revision="refs/convert/parquet")
    with pytest.raises(UserError, match="the beginning of the set only"):
        fetch_hub_source(f"{URL}@refs/convert/parquet", None, tmp_path)
    hub.files = {"README.md": b"pets", "pets.py": b""}
    hub.publish()
    with pytest.raises(UserError, match="no data") as raised:
        fetch_hub_source(URL, None, tmp_path)
    assert raised.value.fix.endswith(f"{URL}@refs/convert/parquet")


def test_an_interrupted_fetch_goes_on_with_the_byte_it_had(hub: Hub, tmp_path: Path):
    hub.files = SPLIT
    hub.publish()
    last, data = "data/train-00000-of-00001.parquet", SPLIT["data/train-00000-of-00001.parquet"]
    path = f"/datasets/doe/pets/resolve/{COMMIT}/{last}"
    hub.site.routes[path] = lambda handler: answer(handler, 200, data[:100], Content_Length=len(data), ETag='"1"')
    with pytest.raises(IncompleteError):
        fetch_hub_source(URL, None, tmp_path, FetchOptions(timeout_s=0.3, retries=0))
    hub.site.routes[path] = file_route(data)
    folder = fetch_hub_source(URL, None, tmp_path, HASTY)
    assert (folder / last).read_bytes() == data
    assert hub.site.ranges(path)[-1] == "bytes=100-"
    assert len(hub.site.requests_for("test-00000-of-00001.parquet")) == 1


@pytest.mark.parametrize(
    ("url", "code", "headers", "kind"),
    [
        (URL, 404, {"X_Error_Code": "RepoNotFound"}, UserError),
        (URL, 401, {"X_Error_Code": "RepoNotFound"}, UserError),
        (URL, 403, {"X_Error_Code": "GatedRepo"}, UserError),
        (f"{URL}@none", 404, {"X_Error_Code": "RevisionNotFound"}, UserError),
        (URL, 400, {}, IncompleteError),
    ],
)
def test_what_the_hub_does_not_show_is_two_lines(
    hub: Hub, tmp_path: Path, url: str, code: int, headers: dict[str, object], kind: type[FastclipError]
):
    for path in ("", "/revision/none"):
        hub.site.routes[f"/api/datasets/doe/pets{path}"] = status(code, **headers)
    with pytest.raises(kind, match="doe/pets") as raised:
        fetch_hub_source(url, None, tmp_path)
    assert raised.value.fix and "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_offline_and_a_file_behind_a_gate_are_two_lines(hub: Hub, fastclip: Program, monkeypatch: pytest.MonkeyPatch):
    hub.files = SIMPLE
    hub.publish()
    path = f"/datasets/doe/pets/resolve/{COMMIT}/data/train-00000-of-00001.parquet"
    hub.site.routes[path] = status(403)
    outcome = fastclip.here("shard", "pets", "--source", URL)
    assert outcome.code == 2 and "Ask for access" in outcome.err.splitlines()[-1]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True, raising=False)
    outcome = fastclip.here("shard", "pets", "--source", URL)
    assert outcome.code == 4 and "could not be asked" in outcome.err and len(outcome.err.splitlines()) == 2


@pytest.mark.parametrize(
    "url",
    ["hf://datasets/pets", "hf://doe/pets", "hf://models/doe/pets", "hf://datasets/../pets", "hf://datasets/a/.."],
)
def test_an_address_that_is_none_asks_nobody(hub: Hub, tmp_path: Path, url: str):
    with pytest.raises(UserError, match="no dataset of Hugging Face"):
        fetch_hub_source(url, None, tmp_path)
    assert not hub.site.asked
