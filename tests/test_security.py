"""Input from others runs nothing, writes nowhere else, and reaches the terminal as text.

Every fixture that could run code would touch a canary. Held elsewhere, and not repeated here: redirects to another
scheme, names from addresses (test_download); secrets in addresses of shards, in tables, records and errors
(test_storage); hostile names and broken headers of tars (test_tars, test_webdataset_source); manifests that name files
outside their folder (test_data); hostile names in tables for papers and spreadsheets (test_report_formats) and on the
page (test_page).
"""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from archives import END, header, tar_bytes
from helpers import REPOSITORY, Program, Sharded, image_bytes, run, write
from safetensors.torch import load, save

from fastclip.data.shards.manifest import ImageRecord, json_lines, read_manifest, read_rejected
from fastclip.data.shards.reader import OpenShard
from fastclip.errors import IntegrityError, UserError
from fastclip.files import digest
from fastclip.models.backbones import TINY
from fastclip.models.weights import find_weights
from fastclip.storage.folders import open_folder
from fastclip.text.prompt_sets import PromptSet
from fastclip.text.prompts import find_prompt_set

PNG = image_bytes()


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.canary), "w")


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there at the end, in a folder that nobody has business in."""
    (tmp_path / "outside").mkdir()
    yield tmp_path / "outside" / "canary"
    assert list((tmp_path / "outside").iterdir()) == []


def test_the_canary_sings(tmp_path: Path):
    """Else nothing below proves anything."""
    for number, data in enumerate((pickle.dumps(Evil(tmp_path / "0")), torch_file(Evil(tmp_path / "1")))):
        if number == 0:
            pickle.loads(data)
        else:
            torch.load(io.BytesIO(data), weights_only=False)
        assert (tmp_path / str(number)).exists()


def torch_file(content: object, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": content}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def zip_of_pickles(canary: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("archive/data.pkl", "archive/constants.pkl", "data.pkl"):
            archive.writestr(name, pickle.dumps(Evil(canary)))
    return file.getvalue()


def numpy_file(canary: Path, save_array: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save_array(file, np.array([Evil(canary)], dtype=object))
    return file.getvalue()


class Script(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "outside/canary")
        return x


def torchscript(canary: Path) -> bytes:
    """TorchScript whose pickle is another one than the compiler wrote."""
    whole, file = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(Evil(canary)) if name.endswith("data.pkl") else old.read(name))
    return file.getvalue()


def tiny() -> bytes:
    path = find_weights(TINY, None).path
    assert path is not None
    return path.read_bytes()


def with_header(length: int, start: bytes = b"{") -> bytes:
    return struct.pack("<Q", length) + start + tiny()[9:]


def other_tensors(**changes: torch.Tensor) -> bytes:
    return save({**load(tiny()), **changes})


def not_finite(of: str) -> bytes:
    """The same tensors, whole; the floating ones that `of` begins hold NaN."""
    nan = {
        k: torch.full_like(v, float("nan"))
        for k, v in load(tiny()).items()
        if k.startswith(of) and v.is_floating_point()
    }
    return other_tensors(**nan)


WEIGHTS: dict[str, tuple[Callable[[Path], bytes], int, str]] = {
    "a pickle": (lambda canary: pickle.dumps(Evil(canary)), 2, "neither a safetensors file nor"),
    "torch.save": (lambda canary: torch_file(Evil(canary)), 5, "was not opened"),
    "torch.save of old": (lambda canary: torch_file(Evil(canary), zipped=False), 2, "neither a safetensors file nor"),
    "a zip of pickles": (zip_of_pickles, 5, "was not opened"),
    "TorchScript": (torchscript, 5, "was not opened"),
    "npz": (lambda canary: numpy_file(canary, np.savez), 5, "was not opened"),
    "npy": (lambda canary: numpy_file(canary, np.save), 2, "neither a safetensors file nor"),
    "pickle behind a safetensors length": (
        lambda canary: struct.pack("<Q", 40) + b"{" + pickle.dumps(Evil(canary)),
        5,
        "is damaged",
    ),
    "cut in the header": (lambda _: tiny()[:500], 5, "is damaged"),
    "cut in the tensors": (lambda _: tiny()[:-4], 5, "is damaged"),
    "more than said": (lambda _: tiny() + b"\0", 5, "is damaged"),
    "header of 2^63 bytes": (lambda _: with_header(2**63), 5, "is damaged"),
    "header of a gigabyte": (lambda _: with_header(2**30), 5, "is damaged"),
    "header that is no JSON": (lambda _: with_header(8, b"{{{"), 5, "is damaged"),
    "empty": (lambda _: b"", 2, "neither a safetensors file nor"),
    "another tensor too many": (lambda _: other_tensors(evil=torch.zeros(2)), 5, "evil"),
    "a tensor of another shape": (lambda _: other_tensors(text_projection=torch.zeros(2)), 5, "text_projection"),
    "numbers that are none": (lambda _: not_finite("visual."), 5, "no finite embedding"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are_no_safetensors_are_refused_by_content_before_anything_runs(
    kind: str, shapes: Sharded, canary: Path, tmp_path: Path, capsys
):
    make, code, words = WEIGHTS[kind]
    write(tmp_path, {"evil.safetensors": make(canary)})  # the best of names
    assert (
        run(
            tmp_path,
            "eval",
            "shapes/flat",
            "-b",
            "tiny",
            "--weights",
            "evil.safetensors",
            "--shards",
            str(shapes.shards),
        )
        == code
    )
    out, err = capsys.readouterr()
    error = err[err.index("Error: ") :]
    assert out == "" and error.count("\n") == 2 and words in error, error
    assert not list(tmp_path.rglob("*.safetensors.tmp")) and not list((tmp_path / "embeddings").rglob("*.safetensors"))


EVIL_EXTENSIONS = ("pkl", "pickle", "pyd", "pth", "pt", "npy", "npz", "ten", "mp", "json5", "yaml", "sh", "py", "so")


def evil_members(canary: Path) -> list[tuple[str, bytes]]:
    """Images and labels, and under the same keys everything that WebDataset's own decoders would load."""
    code = pickle.dumps(Evil(canary))
    shell = f"touch {canary}".encode()
    return [
        member
        for key, label in (("a", b"0"), ("b", b"1"))
        for member in (
            (f"{key}.png", PNG),
            (f"{key}.cls", label),
            *((f"{key}.{extension}", shell if extension in ("sh", "py") else code) for extension in EVIL_EXTENSIONS),
        )
    ]


def test_what_stands_beside_images_in_a_shard_is_never_loaded(canary: Path, tmp_path: Path):
    names = b"cat\ndog\n"
    members = evil_members(canary)
    foreign = {"classnames.txt": names, "test/0.tar": tar_bytes(members), "test/nshards.txt": b"1\n"}
    write(tmp_path, {f"in/{name}": data for name, data in foreign.items()})
    write(tmp_path, {f"shards/foreign/{name}": data for name, data in foreign.items()})
    assert run(tmp_path, "shard", "ours", "--source", "in") == 0
    assert run(tmp_path, "shards", "index", "foreign") == 0
    for name in ("ours", "foreign"):
        assert run(tmp_path, "shards", "check", name) == 0
        assert run(tmp_path, "eval", name, "-b", "tiny", "--prompts", "photo") == 0
        manifest = read_manifest(tmp_path / "shards" / name)
        assert manifest.domains[0].images == 2
        listed = " ".join(row.path for row in read_rejected(tmp_path / "shards" / name, manifest))
        assert all(f".{extension}" in listed for extension in EVIL_EXTENSIONS), "ignored, and said so"


def pax(records: str, name: str = "a.png") -> bytes:
    record = f" {records}\n"
    length = len(record) + 2
    data = f"{length}{record}".encode()
    assert len(data) == length
    return header("x", len(data), type=tarfile.XHDTYPE) + data.ljust(512, b"\0") + header(name) + END


NOT_PLAIN = {
    "symbolic link": lambda canary: header("cat/a.png", type=tarfile.SYMTYPE, linkname=str(canary)) + END,
    "hard link": lambda canary: header("cat/a.png", type=tarfile.LNKTYPE, linkname="/etc/passwd") + END,
    "link to a folder, and a file behind it": lambda canary: (
        header("cat", type=tarfile.SYMTYPE, linkname=str(canary.parent)) + tar_bytes([("cat/canary", PNG)])
    ),
    "device": lambda canary: header("cat/a.png", type=tarfile.BLKTYPE) + END,
    "pipe": lambda canary: header("cat/a.png", type=tarfile.FIFOTYPE) + END,
    "NUL in a pax name": lambda canary: pax("path=cat/\0/canary.png"),
}


@pytest.mark.parametrize("layout", ["images", "shards"])
@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_a_tar_of_more_than_plain_files_is_refused_whole(kind: str, layout: str, canary: Path, tmp_path: Path, capsys):
    data = NOT_PLAIN[kind](canary)
    name = {"images": "in/a.tar", "shards": "in/test/0.tar"}[layout]
    write(tmp_path, {name: data, "in/classnames.txt": b"cat\n"})
    before = sorted(tmp_path.rglob("*"))
    assert run(tmp_path, "shard", "pets", "--source", "in") == 5
    error = capsys.readouterr().err
    assert error.count("\n") == 2 and ".tar" in error and not any(map(is_control, error)), error
    assert sorted(tmp_path.rglob("*")) == before


COMMANDS = (
    "pipe:touch outside/canary",
    "pipe:touch outside/canary |",
    "| touch outside/canary",
    "$(touch outside/canary)",
    "`touch outside/canary`",
    "; touch outside/canary",
    "in::pipe:touch outside/canary",
    "simplecache::file:///etc",
    "${HOME}",
    "{000..002}.tar",
    "ssh://host/$(touch outside/canary)",
    "data:text/plain,x",
)
USES = {
    "shard --source": lambda text: ("shard", "pets", "--source", text),
    "shard NAME": lambda text: ("shard", text, "--source", "in"),
    "eval --shards": lambda text: ("eval", "pets", "-b", "tiny", "--shards", text),
    "eval NAME": lambda text: ("eval", text, "-b", "tiny"),
    "eval --prompts": lambda text: ("eval", "pets", "-b", "tiny", "--prompts", text),
    "eval --weights": lambda text: ("eval", "pets", "-b", "tiny", "--weights", text),
    "eval -b": lambda text: ("eval", "pets", "-b", text),
    "shards check": lambda text: ("shards", "check", text),
    "shards index": lambda text: ("shards", "index", text),
    "download NAME": lambda text: ("download", text),
}


@pytest.mark.parametrize("use", USES)
def test_no_argument_is_a_command_a_list_or_a_pattern(use: str, canary: Path, tmp_path: Path, capsys):
    write(tmp_path, {"in/cat/1.png": PNG, "in/dog/1.png": PNG})
    if use in ("eval --prompts", "eval --weights", "eval -b"):
        assert run(tmp_path, "shard", "pets", "--source", "in") == 0
        capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    for text in COMMANDS:
        assert run(tmp_path, *USES[use](text)) == 2, text
        error = capsys.readouterr().err
        assert error.count("\n") == 2 and error.startswith("Error: "), error
    assert sorted(tmp_path.rglob("*")) == before and not canary.exists()


@pytest.mark.parametrize("there", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/plain,{}"])
def test_a_server_of_shards_cannot_send_us_to_another_scheme(there: str, monkeypatch: pytest.MonkeyPatch):
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", there)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("FASTCLIP_TIMEOUT_S", "0.2")  # the pauses are a fraction of it
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        folder = open_folder(f"http://127.0.0.1:{server.server_port}/shards")
        with pytest.raises(UserError, match="redirects to what is neither http nor https"):
            folder.read("manifest.json")
        server.shutdown()


TEMPLATES = (
    "{0.__class__}",
    "{0.__class__.__mro__[1].__subclasses__}",
    "{x!r}",
    "{}{}",
    "{folder}{folder}",
    "{} {folder}",
    "{0}",
    "{folder.__class__}",
    "%s",
    "${name}",
    "{:>1000000000}",
)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_a_template_has_one_plain_placeholder_or_is_refused(template: str, suffix: str, tmp_path: Path):
    text = json.dumps([template]) if suffix == "json" else template
    write(tmp_path, {f"mine.{suffix}": text.encode()})
    with pytest.raises(UserError, match="exactly one placeholder"):
        find_prompt_set(str(tmp_path / f"mine.{suffix}"))


class Touchy(str):
    """A name that must not be looked into."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"a template reached for {name}")

    def __format__(self, spec: str) -> str:
        raise AssertionError("a template formatted a name")


@pytest.mark.parametrize("rest", ["{0.__class__}", "{x!r}", "{{}", "}{", "%s %(x)s", "{:>9}", "\\x1b", "$HOME"])
def test_beside_its_placeholder_a_template_is_literal(rest: str):
    readable = PromptSet("mine", (f"a {{}} {rest}",)).prompts("f", Touchy("cat"))
    folder = PromptSet("mine", (f"a {{folder}} {rest}",)).prompts(Touchy("f"), "cat")
    if "{}" not in rest:
        assert readable == [f"a cat {rest}"]
    assert folder == [f"a f {rest}"]


def is_control(char: str) -> bool:
    """Whether a terminal would do something else than show it."""
    return char != "\n" and not char.isprintable()


CLEAR, COPY, TITLE, TURN = "\x1b[2J", "\x1b]52;c;eA==\x07", "\x9b31m", "\u202e"
HOSTILE = f"{CLEAR}{COPY}{TITLE}{TURN}\r[red]x\x08\x7f"


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """The program's output without the colours that it chose itself (none: this is no terminal)."""
    out, err = capsys.readouterr()
    assert not any(map(is_control, out + err)), ascii(out + err)
    return out + err


def test_no_name_from_anywhere_reaches_the_terminal_as_a_control_character(fastclip: Program, tmp_path: Path, capsys):
    """Keys, classes, members that are no image or do not decode, arguments, and a manifest made elsewhere."""
    members = [
        (f"a{HOSTILE}.png", PNG),
        (f"a{HOSTILE}.cls", b"0"),
        (f"b{HOSTILE}.png", image_bytes(size=(64, 64))[:-60]),
        (f"b{HOSTILE}.cls", b"1"),
        (f"c{HOSTILE}.png", HOSTILE.encode()),
        (f"c{HOSTILE}.cls", b"1"),
        (f"d{HOSTILE}.pkl", b""),
    ]
    classes = f"cat {CLEAR}{COPY}\ndog {TURN}\n".encode()
    write(tmp_path, {"in/classnames.txt": classes, f"in/te{CLEAR}st/0.tar": tar_bytes(members)})
    write(tmp_path, {"p.txt": b"a {}", f"bad{CLEAR}.txt": f"{COPY}".encode()})
    assert run(tmp_path, "shard", "pets", "--source", "in", "--no-verify") == 0
    assert "\\x1b" in shown(capsys), "it is shown, as text"
    evaluate = ("eval", "pets", "-b", "tiny", "--prompts", "p.txt", "--json", "r.json")
    assert run(tmp_path, *evaluate) == 3
    assert "\\x1b" in shown(capsys)
    assert CLEAR not in (tmp_path / "r.json").read_text()
    assert run(tmp_path, "shards", "check", "pets") == 0
    shown(capsys)
    # A manifest is whole, and was made by somebody else.
    folder = tmp_path / "shards" / "pets"
    hostile = dataclasses.replace(read_manifest(folder), title=HOSTILE, variant=HOSTILE, protocol=HOSTILE)
    (folder / "manifest.json").write_bytes(hostile.to_json())
    for command in (
        evaluate,
        ("eval", f"pets/{HOSTILE}", "-b", "tiny"),
        ("eval", HOSTILE, "-b", "tiny"),
        ("eval", "pets", "-b", HOSTILE),
        ("eval", "pets", "-b", "tiny", "--prompts", f"bad{CLEAR}.txt"),
        ("eval", "pets", "-b", "tiny", "--prompts", HOSTILE),
        ("eval", "pets", "-b", "tiny", "--weights", f"{HOSTILE}.pt"),
        ("eval", "pets", "-b", "tiny", "--decoder", HOSTILE),
        ("eval", "pets", "-b", "tiny", "--shards", HOSTILE),
        ("shard", HOSTILE, "--source", "in"),
        ("shard", "pets", "--source", HOSTILE),
        ("shard", "pets", "--source", "in", "--protocol", HOSTILE),
        ("shards", "check", "pets"),
        ("shards", "check", HOSTILE),
        ("download", HOSTILE),
        (HOSTILE,),
    ):
        run(tmp_path, *command)
        shown(capsys)
    for command in (evaluate, ("datasets",), ("datasets", "show", HOSTILE)):  # as a user runs it
        outcome = fastclip(*command)
        assert not any(map(is_control, outcome.out + outcome.err)), ascii(outcome.out + outcome.err)


def test_the_name_of_a_prompt_set_reaches_the_table_as_text(shapes: Sharded, tmp_path: Path, capsys):
    write(tmp_path, {f"p{CLEAR}.txt": b"a {}"})
    run(tmp_path, "eval", "shapes/flat", "-b", "tiny", "--prompts", f"p{CLEAR}.txt", "--shards", str(shapes.shards))
    shown(capsys)


def rows_of(records: list[ImageRecord], **changes: object) -> bytes:
    return json_lines([dataclasses.replace(records[0], **changes), *records[1:]])


INDEXES: dict[str, Callable[[list[ImageRecord]], bytes]] = {
    "a label below 0": lambda records: rows_of(records, label=-1),
    "a label that is no number": lambda records: json_lines(records).replace(b'"label":0', b'"label":"0"', 1),
    "a label that is a fraction": lambda records: json_lines(records).replace(b'"label":0', b'"label":0.5', 1),
    "a label that is true": lambda records: json_lines(records).replace(b'"label":0', b'"label":true', 1),
    "an offset before the tar": lambda records: rows_of(records, offset=-512),
    "an offset behind the tar": lambda records: rows_of(records, offset=2**62),
    "a size beyond the tar": lambda records: rows_of(records, size=2**62),
    "a size below 0": lambda records: rows_of(records, size=-1),
    "a height that is none": lambda records: json_lines(records).replace(b'"height":', b'"height":null,"width":', 1),
    "a key that is a list": lambda records: json_lines(records).replace(b'"key":"', b'"key":["a"],"path":"', 1),
    "a field too many": lambda records: json_lines(records).replace(b'{"', b'{"x":1,"', 1),
    "a field too few": lambda records: json_lines(records).replace(b'"height"', b'"tall"', 1),
    "not JSON": lambda records: json_lines(records).replace(b"{", b"", 1),
    "not UTF-8": lambda records: json_lines(records).replace(b'"key":"', b'"key":"\xff', 1),
    "no row but a list": lambda records: b"[]\n" * len(records),
    "deep": lambda records: b"[" * 100_000 + b"\n" + b"".join(json_lines(records).splitlines(True)[1:]),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_is_believed_only_as_far_as_its_tar_goes(kind: str, shapes: Sharded, tmp_path: Path):
    """Its digest stands in the manifest, and whoever made the manifest could write anything into the index."""
    shard = read_manifest(shapes.folder).shards[0]
    data = INDEXES[kind](OpenShard(shapes.folder, shard).records)
    changed = dataclasses.replace(shard, index_sha256=digest(data))
    write(tmp_path, {shard.name: (shapes.folder / shard.name).read_bytes(), shard.index_name: data})
    with pytest.raises(IntegrityError, match=r"0\.index\.jsonl is not the file that was sharded: row 1 "):
        OpenShard(tmp_path, changed)


MANIFESTS = {
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "not JSON": b"\xff",
    "a domain without a name": b'"name": ""',
    "a number that is none": b'"images": NaN',
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_is_none_is_two_lines(kind: str, shapes: Sharded, tmp_path: Path, capsys):
    data = MANIFESTS[kind]
    if data.startswith(b'"'):
        document = json.loads((shapes.folder / "manifest.json").read_bytes())
        document["domains"][0]["name"] = document["domains"][0]["images"] = "~"
        field = data.partition(b":")[0]
        other = b'"images": 60' if field == b'"name"' else b'"name": "flat"'
        text = json.dumps(document).encode()
        for name, value in ((b'"name"', b""), (b'"images"', b"")):
            new = data if name == field else other
            text = text.replace(name + b': "~"' + value, new, 1)
        data = text
    write(tmp_path, {"shards/shapes/manifest.json": data})
    assert run(tmp_path, "eval", "shapes", "-b", "tiny") == 5
    error = capsys.readouterr().err
    assert error.count("\n") == 2 and "manifest.json cannot be used" in error


# ---- The gate: what no file of the package may contain, wherever it stands in it. ----

MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "imp", "pty"}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.serialization.load"),
    *("numpy.load", "pandas.read_pickle", "runpy.run_path", "runpy.run_module", "importlib.import_module"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "shutil.unpack_archive"),
}
STARTS = ("os.exec", "os.spawn", "os.posix_spawn")
METHODS = {"extractall", "extract", "unpack_archive", "gather_object", "broadcast_object_list", "all_gather_object"}
METHODS |= {"scatter_object_list", "gather_for_metrics", "find_class", "gopen"}
KEYWORDS = {"allow_pickle", "trust_remote_code", "weights_only", "shell"}
TRUE_ONLY = {"shell"}

DOCUMENTED = {
    ("models/weights.py", "torch.jit.load"),
    ("cli/names.py", "os.execve"),
    ("__init__.py", "importlib.import_module"),
}
"""An archive that OpenAI published, by its SHA-256; this very program, with the words that it was started with; the
modules of a table in that very file."""


def full_names(tree: ast.AST) -> dict[str, str]:
    """The full names behind the names of a file: `np` → numpy, `load` → torch.load."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`np.load` as numpy.load; "" for what is no chain of names."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value, names)):
        return f"{owner}.{node.attr}"
    return ""


def forbidden(source: str, path: str) -> Iterator[str]:
    """Calls that a file must not contain."""
    tree = ast.parse(source)
    names = full_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            yield from (
                name
                for name in [module or "", *(a.name for a in node.names if not module)]
                if name.split(".")[0] in MODULES
            )
            yield from (f"{module}.{a.name}" for a in node.names if f"{module}.{a.name}" in CALLS or a.name in METHODS)
        elif isinstance(node, ast.Name) and node.id in NAMES and node.id not in names:
            yield node.id
        elif isinstance(node, ast.Attribute):
            name = dotted(node, names)
            if (name in CALLS or name.startswith(STARTS)) and (path, name) not in DOCUMENTED:
                yield name
            elif node.attr in METHODS:
                yield f".{node.attr}"
            elif node.attr in ("format", "format_map") and path.startswith("text/"):
                yield f".{node.attr} on what users write"
            elif name.startswith("webdataset.") and name != "webdataset.TarWriter":
                yield f"{name}: its readers run commands and load pickles"
        elif isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            harmless = isinstance(node.value, ast.Constant) and node.value.value is False and node.arg in TRUE_ONLY
            if not harmless:
                yield f"{node.arg}="


def test_no_file_of_the_package_can_run_what_others_wrote():
    package = REPOSITORY / "fastclip"
    found = {
        f"{path.relative_to(package)}: {what}"
        for path in package.rglob("*.py")
        for what in forbidden(path.read_text("utf-8"), path.relative_to(package).as_posix())
    }
    assert not found


BITES = (
    "import pickle",
    "from pickle import loads",
    "import dill as p",
    "def f():\n    import joblib",
    "import marshal, os",
    "import shelve",
    "from yaml import load",
    "import torch\ntorch.load('x')",
    "import torch as t\nt.load('x', weights_only=True)",
    "from torch import load",
    "from torch import jit\njit.load('x')",
    "import torch.jit\ntorch.jit.load('x')",
    "import torch\nopen_it = torch.load",
    "eval('1')",
    "run = exec",
    "compile('1', 'x', 'eval')",
    "__import__('pickle')",
    "from importlib import import_module",
    "import numpy as np\nnp.load('x')",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import os\nos.system('ls')",
    "from os import popen",
    "import os\nos.execv('ls', [])",
    "import subprocess\nsubprocess.run('ls', shell=True)",
    "import subprocess\nflag = True\nsubprocess.run('ls', shell=flag)",
    "import tarfile\ntarfile.open('x').extractall()",
    "archive.extract('x')",
    "import shutil\nshutil.unpack_archive('x')",
    "model.from_pretrained('x', trust_remote_code=True)",
    "accelerator.gather_object([])",
    "import torch.distributed as dist\ndist.all_gather_object([], 1)",
    "from torch.distributed import broadcast_object_list",
    "import webdataset\nwebdataset.WebDataset('pipe:ls')",
    "from webdataset import gopen",
    "import webdataset as wds\nwds.gopen.gopen('pipe:ls')",
)
HARMLESS = (
    "import re\nre.compile('x')",
    "model.eval()",
    "import json\njson.load(file)",
    "from safetensors.torch import load_file\nload_file('x')",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
    "import webdataset\nwebdataset.TarWriter(stream)",
    "'{}'.format(1)",
)


@pytest.mark.parametrize("source", BITES)
def test_the_gate_bites(source: str):
    assert list(forbidden(source, "data/x.py"))
    assert list(forbidden(source, "models/weights.py")) or "jit" in source, "the one exception is one name in one file"


def test_the_gate_lets_pass_what_is_harmless_and_formatting_only_where_no_user_writes():
    for source in HARMLESS:
        assert not list(forbidden(source, "data/x.py")), source
    for source in ("template.format(name)", "'{}'.format_map(names)", "import torch\ntorch.load('x')"):
        assert list(forbidden(source, "text/prompts.py"))
    assert not list(forbidden("import torch\ntorch.jit.load('x')", "models/weights.py"))


def test_a_scan_of_the_environment_changes_no_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """webdataset rewrites addresses by GOPEN_REWRITE and substitutes WDS_*; nothing of ours asks it to open one."""
    monkeypatch.setenv("GOPEN_REWRITE", f"{tmp_path}/in=pipe:touch {tmp_path}/canary")
    monkeypatch.setenv("WDS_PLACE", "elsewhere")
    write(tmp_path, {"in/cat/1.png": PNG, "in/dog/1.png": PNG})
    assert run(tmp_path, "shard", "pets", "--source", f"{tmp_path}/in") == 0
    assert run(tmp_path, "eval", "pets", "-b", "tiny", "--shards", "WDS_PLACE") == 2
    assert not (tmp_path / "canary").exists() and os.environ["WDS_PLACE"] == "elsewhere"
