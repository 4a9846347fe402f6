"""`fastclip doctor` finds what is broken, says how to mend it, shows no secret and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Fault, Faults
from helpers import Program, Sharded, wait_until, write

from fastclip.cli.doctor import lines
from fastclip.doctor import folders, launching, processors, program, resources, weights
from fastclip.doctor.checks import CHECKS
from fastclip.doctor.examine import examine
from fastclip.doctor.finding import Asked, Finding, fail
from fastclip.doctor.secrets import without_secrets
from fastclip.errors import UserError
from fastclip.models.backbones import TINY
from fastclip.models.weights import find_weights

SECRETS = ("hf_abcdefgh", "wJalrXUtnFEMI", "hunter2hunter2", "5ignature", "correcthorse")


def look(name: str, asked: Asked | None = None, limit_s: float = 120.0) -> list[Finding]:
    """The findings of one check, in a process of its own."""
    checks = [check for check in CHECKS if check.name == name]
    assert len(checks) == 1, name
    ((_, findings),) = examine(asked or Asked(), checks, limit_s)
    return findings


def stub(folder: Path, module: str, code: str) -> Path:
    """A folder to be searched first, in which a module is another one."""
    write(folder / "stubs", {f"{module}.py": code.encode()})
    return folder / "stubs"


def test_an_interpreter_that_may_not_be_run_is_told_apart_from_too_many_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path, {"python": b"#!/bin/sh"})
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (found,) = look("python")
    assert found.level == "fail" and found.text.endswith(f"{tmp_path}/python: Permission denied.")
    assert found.cure == "Let this user run that file."


def test_a_sound_machine_is_well_and_the_page_can_be_sent_to_others(fastclip: Program, tmp_path: Path):
    fastclip.environment.update({
        "HF_TOKEN": SECRETS[0], "AWS_SECRET_ACCESS_KEY": SECRETS[1], "MY_DB_PASSWORD": SECRETS[2],
        "HTTPS_PROXY": f"http://user:{SECRETS[4]}@127.0.0.1:9", "HF_ENDPOINT": f"https://u:{SECRETS[4]}@hub.invalid",
    })  # fmt: skip
    address = f"https://user:{SECRETS[4]}@host.invalid/shards?X-Amz-Signature={SECRETS[3]}"
    store = f"new/\x1b[31m{SECRETS[2]}"
    outcome = fastclip("doctor", "--shards", address, "--store", store, "--json", "found.json")
    assert outcome.code == 0, outcome
    assert "HTTPS_PROXY" in outcome.out, "names may be shown"
    document = (tmp_path / "found.json").read_text("utf-8")
    for text in (outcome.out, outcome.err, document):
        assert not [secret for secret in SECRETS if secret in text]
        assert "\x1b" not in text and "user:" not in text
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    found = json.loads(document)
    assert (found["schema"], found["failed"]) == ("fastclip.doctor/1", 0)
    for each in found["findings"]:
        assert each["level"] in ("ok", "warn") and bool(each["cure"]) == (each["level"] != "ok"), each
        assert each["name"] in outcome.out and each["group"] in outcome.out
    assert {"torch", "processor", "Pillow", "torchvision", "DALI", "store, writing"} <= {
        e["name"] for e in found["findings"]
    }


def test_where_torch_is_broken_doctor_says_so_and_checks_the_rest(fastclip: Program, tmp_path: Path):
    broken = stub(tmp_path, "torch", "raise ImportError('libcudart.so.13: cannot open shared object file')")
    fastclip.environment["PYTHONPATH"] = os.pathsep.join([str(broken), os.environ.get("PYTHONPATH", "")])
    outcome = fastclip("doctor", "--json", "-")
    assert outcome.code == 4 and "Traceback" not in outcome.err, outcome
    levels = {each["name"]: each for each in json.loads(outcome.out)["findings"]}
    assert levels["processor"]["level"] == "fail" and "libcudart.so.13" in levels["processor"]["text"]
    assert levels["Pillow"]["level"] == levels["store, writing"]["level"] == levels["packages"]["level"] == "ok"


CRASHES = {
    "a segmentation fault": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "torchvision.py", "Install"),
    "an abort": ("import os, sys; print('bad alloc', file=sys.stderr); os.abort()", "said: bad alloc", "Install"),
    "the system's killer": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed", "memory"),
    "an exit": ("import os; os._exit(7)", "code 7", "Report"),
    "an error": ("raise RuntimeError('no \\x1b[31m kernel')", "kernel", ""),
    "noise on standard output": ("import os; os.write(1, b'[]'); raise ImportError('gone')", "gone", "Install"),
}


@pytest.mark.parametrize("crash", CRASHES)
def test_a_library_that_crashes_is_a_finding_of_its_own(crash: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code, words, cure = CRASHES[crash]
    monkeypatch.syspath_prepend(str(stub(tmp_path, "torchvision", code)))
    (found,) = look("torchvision")
    assert (found.level, found.name) == ("fail", "torchvision") and words in found.text and cure in found.cure, found
    assert "\x1b" not in "".join(lines(found))


def test_a_check_that_hangs_ends_at_the_limit_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, {"bin/nvidia-smi": f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n".encode()})
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    (found,) = look("driver", limit_s=8.0)
    assert found.level == "fail" and "within 8 s" in found.text and "--limit 80" in found.cure
    child = (tmp_path / "pid").read_text().strip()
    wait_until(lambda: not is_alive(child), "nvidia-smi is gone", 30)


def is_alive(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_stop_signal_ends_the_checks_too(fastclip: Program, tmp_path: Path):
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    hanging = stub(tmp_path, "torchvision", code)
    fastclip.environment["PYTHONPATH"] = os.pathsep.join([str(hanging), os.environ.get("PYTHONPATH", "")])
    process = fastclip.start("doctor")
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the check hangs", 120)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    wait_until(lambda: not is_alive((tmp_path / "pid").read_text()), "the check is gone", 30)


SMI = {
    "two GPUs": ("echo 'NVIDIA H100, 580.1, 81559, 4'; echo 'NVIDIA H100, 580.1, 81559, 80000'", ["ok", "warn"]),
    "no driver": ("echo 'NVIDIA-SMI has failed because it could not communicate.'; exit 9", ["fail"]),
    "no GPU": ("true", ["fail"]),
    "escapes": ("printf 'a\\033[31mb, 1, 2, 1\\n'", ["ok"]),
}


@pytest.mark.parametrize("case", SMI)
def test_the_driver_is_asked_by_its_own_program(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script, levels = SMI[case]
    write(tmp_path, {"nvidia-smi": f"#!/bin/sh\n{script}\n".encode()})
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = processors.driver(Asked())
    assert [each.level for each in found] == levels
    assert not any("\x1b" in line for each in found for line in lines(each))


def test_code_runs_on_gpus_as_nvidia_documents_it():
    assert processors.runs_on((9, 0), ["sm_80", "sm_90"]) and processors.runs_on((8, 6), ["sm_80"])
    assert not processors.runs_on((8, 0), ["sm_86"]) and not processors.runs_on((12, 0), ["sm_90", "sm_100"])
    assert processors.runs_on((12, 0), ["sm_90", "compute_90"]), "PTX is compiled for later ones"
    assert not processors.runs_on((10, 0), ["sm_90a"]) and processors.runs_on((9, 0), ["sm_90a"])
    assert not processors.runs_on((7, 0), [])


def test_a_decoder_with_other_pixels_is_found(monkeypatch: pytest.MonkeyPatch):
    from fastclip.doctor.decoders import with_decoder
    from fastclip.pixels import decoders
    from fastclip.pixels.torchvision import TorchvisionDecoder

    class Darker(TorchvisionDecoder):
        def decode(self, images):
            batch = super().decode(images)
            return batch._replace(crops={side: crops // 2 for side, crops in batch.crops.items()})

    assert with_decoder("torchvision", "torchvision", "torchvision")[0].level == "ok"
    monkeypatch.setattr(
        decoders, "make_decoder", lambda name, sides, batch, device, threads: Darker(sides, batch, device)
    )
    (found,) = with_decoder("torchvision", "torchvision", "torchvision")
    assert found.level == "fail" and "grey levels away" in found.text


def metadata(folder: Path, name: str, version: str) -> None:
    write(folder, {f"{name}-{version}.dist-info/METADATA": f"Name: {name}\nVersion: {version}\n".encode()})


def test_versions_out_of_range_and_libraries_from_elsewhere_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert [each.level for each in program.packages(Asked())] == ["ok"]
    metadata(tmp_path, "numpy", "1.21.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {each.name: each for each in program.packages(Asked()) if each.level == "fail"}
    assert (
        found.keys() == {"numpy"}
        and "1.21.0" in found["numpy"].text
        and found["numpy"].cure == 'pip install "numpy>=2.0"'
    )
    (loaded,) = program.libraries(Asked())
    assert loaded.level == "fail" and "1.21.0 is installed" in loaded.text


def put(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


STORES = {
    "sound": ([], "ok", "by hard links"),
    "read-only": ([Fault("*/.fastclip-doctor-*", "mkdir", errno="EROFS")], "fail", "Read-only file system"),
    "no permission": ([Fault("*/.fastclip-doctor-*", "mkdir", errno="EACCES")], "fail", "Permission denied"),
    "full": ([Fault("*/.fastclip-doctor-*", "write", last=0, errno="ENOSPC")], "fail", "No space left"),
    "failing": ([Fault("*/.fastclip-doctor-*", "fsync", last=0, errno="EIO")], "fail", "Input/output error"),
    "without hard links": ([Fault("*/.fastclip-doctor-*", "link", last=0, errno="EPERM")], "ok", "no hard links"),
}


@pytest.mark.parametrize("kind", STORES)
def test_a_store_is_tried_as_parts_are_published_and_left_as_it_was(
    kind: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rules, level, words = STORES[kind]
    write(tmp_path, {"store/mine.txt": b"mine"})
    put(monkeypatch, faults.env(*rules))
    found = {each.name: each for each in look("store", Asked(store=str(tmp_path / "store")))}
    assert found["store, writing"].level == level and words in found["store, writing"].text, found
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["mine.txt"]


def test_a_file_system_that_cannot_keep_names_apart_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def overwrite(old: Path, new: Path) -> None:
        old.replace(new)

    def refuse(old: Path, new: Path) -> None:
        raise UserError("no links", fix="another one")

    for rename, words in ((overwrite, "overwrite each other"), (refuse, "no links")):
        monkeypatch.setattr(folders, "name_new", rename)
        (found,) = (each for each in folders.store(Asked(store=str(tmp_path))) if each.name == "store, writing")
        assert found.level == "fail" and words in found.text and found.cure
        assert list(tmp_path.iterdir()) == []


def test_leftovers_and_clocks_of_a_store_are_told(tmp_path: Path):
    old = tmp_path / f".x.safetensors.12.{'ab' * 4}.tmp"
    young = tmp_path / f".y.safetensors.12.{'ab' * 4}.tmp"
    for path in (old, young, tmp_path / "z.safetensors"):
        path.write_bytes(bytes(1000))
    os.utime(old, (1e9, 1e9))
    found = [each for each in folders.store(Asked(store=str(tmp_path))) if each.name == "store, leftovers"]
    assert [each.text.split()[0] for each in found] == ["1"] and old.exists()
    assert [each.level for each in folders.of_clock(300.0)] == ["warn"] and not list(folders.of_clock(-5.0))


def test_the_file_system_of_a_path_is_that_of_its_nearest_mount(tmp_path: Path):
    mounts = tmp_path / "mountinfo"
    here = str(tmp_path.resolve()).replace(" ", "\\040")
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 0:5 / {here} rw shared:1 - nfs4 server:/x rw\n"
        f"3 1 0:6 / {here}/fuse rw - fuse.sshfs me@host rw\n"
    )
    assert folders.file_system(tmp_path / "store", mounts) == "nfs4"
    assert folders.file_system(tmp_path / "fuse" / "a", mounts) == "fuse.sshfs"
    assert folders.file_system(tmp_path.parent / f"{tmp_path.name}x", mounts) == "ext4"
    assert folders.file_system(tmp_path, tmp_path / "none") == "?"
    assert "nfs4".startswith(folders.NETWORK) and not "ext4".startswith(folders.NETWORK)


def test_shards_that_cannot_be_read_are_named_and_an_address_is_not_asked(shapes: Sharded, tmp_path: Path):
    (sound,) = folders.shards(Asked(shards=str(shapes.shards)))
    assert sound.level == "ok" and "1 dataset with 240 images" in sound.text
    write(tmp_path, {"bad/manifest.json": b"{}"})
    _, bad = folders.shards(Asked(shards=str(tmp_path)))
    assert (bad.level, bad.cure) == ("fail", "fastclip shards check bad")
    (address,) = folders.shards(Asked(shards="https://127.0.0.1:9/shards"))
    assert address.level == "ok" and "--online" in address.text


CONFIGURATIONS = {
    "distributed_type: MULTI_GPU\nnum_processes: 8\n": "ok",
    "distributed_type: MULTI_CPU\nnum_processes: 4\n": "warn",
    "distributed_type: 'NO'\nnum_processes: 4\n": "warn",
    "distributed_type: 'NO'\nnum_processes: 1\n": "ok",
    "distributed_type: MULTI_GPU\nmixed_precision: fp8\n": "warn",
    '{"distributed_type": "MULTI_CPU"}': "warn",
    "\x1b[31m: nothing": "fail",
    "": "fail",
}


@pytest.mark.parametrize("text", CONFIGURATIONS, ids=range(len(CONFIGURATIONS)))
def test_the_default_configuration_of_accelerate_is_read(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert [each.level for each in launching.accelerate(Asked())] == ["ok"], "none is there"
    write(tmp_path, {"accelerate/default_config.yaml": text.encode()})
    (found,) = launching.accelerate(Asked())
    assert found.level == CONFIGURATIONS[text]
    assert "MULTI_CPU" not in text or "only one" in found.text


def test_variables_of_a_launcher_that_is_not_there_are_found():
    alone, two = launching.of_launcher({}), {"RANK": "0", "WORLD_SIZE": "2"}
    assert alone.level == "ok"
    assert launching.of_launcher(two).level == "warn" and launching.of_launcher(two).cure == "unset RANK WORLD_SIZE"
    assert launching.of_launcher({**two, "TORCHELASTIC_RUN_ID": "x"}).level == "ok"
    assert launching.of_launcher({"RANK": "3", "WORLD_SIZE": "2"}).level == "fail"
    assert launching.of_launcher({"WORLD_SIZE": "many"}).level == "fail"


def test_weights_are_whole_by_their_own_header_and_known_by_their_digest(tmp_path: Path):
    path = find_weights(TINY, None).path
    assert path is not None
    whole = path.read_bytes()
    files = {"whole.safetensors": whole, "cut.safetensors": whole[:-1], "more.safetensors": whole + b"x", "empty": b""}
    write(tmp_path, {**files, "header.safetensors": whole[:500], "a.pt": b"PK\x03\x04" + bytes(99)})
    assert [each.name for each in tmp_path.iterdir() if weights.is_whole(each)] == ["whole.safetensors"]
    asked = [str(tmp_path / name) for name in ("whole.safetensors", "cut.safetensors", "a.pt", "none")]
    levels = [each.level for each in weights.given(Asked(weights=tuple(asked)))]
    assert levels == ["warn", "fail", "fail", "fail"], "a digest that nobody published proves nothing"


def test_the_hub_names_its_files_by_their_digest(tmp_path: Path):
    path = find_weights(TINY, None).path
    assert path is not None
    data = path.read_bytes()
    from fastclip.files import digest

    write(tmp_path, {f"blobs/{digest(data)}": data, f"blobs/{'ab' * 32}": data})
    for blob, level in ((digest(data), "ok"), ("ab" * 32, "fail")):
        link = tmp_path / f"{blob[:4]}.safetensors"
        link.symlink_to(tmp_path / "blobs" / blob)
        assert [each.level for each in weights.given(Asked(weights=(f"ViT-B/32={link}",)))] == [level]


def test_the_time_that_a_container_gives_is_read_from_both_kinds_of_groups(tmp_path: Path):
    assert resources.core_quota(tmp_path) is None
    write(tmp_path, {"cpu/cpu.cfs_quota_us": b"150000\n", "cpu/cpu.cfs_period_us": b"100000\n"})
    assert resources.core_quota(tmp_path) == 1.5
    write(tmp_path, {"cpu.max": b"max 100000\n"})
    assert resources.core_quota(tmp_path) is None
    write(tmp_path, {"cpu.max": b"200000 100000\n"})
    assert resources.core_quota(tmp_path) == 2.0


def test_secrets_are_hidden_wherever_they_stand():
    environment = {"HF_TOKEN": "hf_abcdefgh", "LONGER_KEY": "hf_abcdefghij", "PASS": "no", "PATH": "/usr/bin"}
    hide: Callable[[str], str] = lambda text: without_secrets(text, environment)  # noqa: E731
    assert hide("a hf_abcdefghij b hf_abcdefgh c") == "a *** b *** c"
    assert hide("s3://me:pw@host/x and https://me@host") == "s3://***@host/x and https://***@host"
    assert hide("https://host/x?sig=1&b=2 is it") == "https://host/x?*** is it"
    assert hide("/usr/bin, no") == "/usr/bin, no"
    assert without_secrets("-- c2VjcmV0 --", {"SSH_KEY": "begin\nc2VjcmV0\nend"}) == "-- *** --"


def test_findings_fit_80_columns_and_cures_stand_below():
    found = fail("a name that is far too long", "word " * 40, "fastclip eval " * 12)
    shown = lines(found)
    assert max(map(len, shown)) <= 80 and any(line.lstrip().startswith("→ fastclip eval") for line in shown)
    short = lines(replace(found, name="x", text="all good.", cure=""))
    assert len(short) == 1 and re.fullmatch(r"  fail  x +all good\.", short[0])


def test_no_library_is_loaded_before_a_check_runs():
    code = (
        "import sys, fastclip.cli.doctor, fastclip.doctor.examine, fastclip.doctor.checks;"
        "print([n for n in ('torch', 'numpy', 'PIL', 'rich', 'pyarrow', 'huggingface_hub') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
