"""The files of launch/: each is run as its first line says, on a CPU, and gives the bytes of a plain run."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import typer
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import _filter_args
from accelerate.utils.launch import prepare_multi_gpu_env
from helpers import REPOSITORY, Plain, Sharded, part_paths, stored_files, wait_until
from torch.distributed import run as torchrun

from fastclip.cli.main import app

LAUNCH = REPOSITORY / "launch"
CONFIGS = sorted(path.name for path in LAUNCH.glob("*.yaml") if path.name != "kubernetes.yaml")
SCRIPTS = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
PROCESSES = {"one_gpu.yaml": 1, "two_cpu_processes.yaml": 2, "eight_gpus.yaml": 8, "two_nodes.yaml": 16}
PATIENCE_S = 300
"""For what takes ten seconds on two idle cores."""


class Checkout:
    """A folder with launch/ in it and, first on the path, the commands that a test wants to see called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "launch").symlink_to(LAUNCH)
        (folder / "bin").mkdir()
        self.started: list[subprocess.Popen[str]] = []

    def command(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!{sys.executable}\n{script}")
        path.chmod(0o755)

    def start(self, *command: object, **environment: object) -> subprocess.Popen[str]:
        """Start a command in a process group of its own, as Slurm does."""
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        settings = {"COLUMNS": "80", "HF_HUB_OFFLINE": "1", "PATH": path} | {k: str(v) for k, v in environment.items()}
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=self.folder,
            env=os.environ | settings,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *command: object, **environment: object) -> tuple[int, str, str]:
        process = self.start(*command, **environment)
        out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err

    def wait_for_parts(self, count: int) -> None:
        def happened() -> bool:
            assert all(process.poll() is None for process in self.started)
            return len(part_paths(self.folder / "embeddings")) >= count

        wait_until(happened, f"{count} parts")


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    made = Checkout(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# Accelerate's configurations


@pytest.mark.parametrize("name", CONFIGS)
def test_every_line_of_a_configuration_reaches_the_launcher(name: str):
    config = ClusterConfig.from_yaml_file(str(LAUNCH / name))
    words = ["--config_file", str(LAUNCH / name), "-m", "fastclip", "eval"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert arguments.multi_gpu, "anything else starts one process, or does not restart it"
    for key, value in yaml.safe_load((LAUNCH / name).read_text()).items():
        if key not in ("compute_environment", "distributed_type"):
            assert getattr(arguments, key) == getattr(config, key) == value, key
    assert arguments.num_processes == PROCESSES[name]


def test_what_a_configuration_cannot_say_is_said_on_the_command_line(tmp_path: Path):
    """Why no file here says them. When Accelerate learns to, this fails and they may move."""
    path = tmp_path / "config.yaml"
    path.write_text((LAUNCH / "two_nodes.yaml").read_text() + "rdzv_backend: c10d\nsame_network: true\n")
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(path), "x.py"]))
    assert (arguments.rdzv_backend, arguments.same_network) == ("static", False)
    path.write_text((LAUNCH / "two_nodes.yaml").read_text() + "max_restarts: 3\n")
    with pytest.raises(ValueError, match="max_restarts"):
        ClusterConfig.from_yaml_file(str(path))


@pytest.mark.parametrize(
    "name, overrides, nodes, rank, processes",
    [
        ("one_gpu.yaml", [], 1, 0, 1),
        ("eight_gpus.yaml", [], 1, 0, 8),
        ("eight_gpus.yaml", ["--num_processes", "4", "--gpu_ids", "0,1,2,3"], 1, 0, 4),
        ("two_nodes.yaml", ["--machine_rank", "1", "--main_process_ip", "node1"], 2, 1, 8),
        ("two_nodes.yaml", ["--machine_rank", "3", "--num_machines", "4", "--num_processes", "16"], 4, 3, 4),
    ],
)
def test_torchrun_is_told_how_many_processes_to_start_on_which_node(
    name: str, overrides: list[str], nodes: int, rank: int, processes: int
):
    words = ["--config_file", str(LAUNCH / name), *overrides, "--main_process_port", "0", "--max_restarts", "3"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args([*words, "-m", "fastclip", "eval"]))
    prepare_multi_gpu_env(arguments)
    given = ["--training_script", "fastclip", "--training_script_args", ["eval"]]
    config, *_ = torchrun.config_from_args(_filter_args(arguments, torchrun.get_args_parser(), given))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (nodes, nodes, processes)
    assert (config.max_restarts, config.rdzv_backend) == (3, "static")
    if nodes > 1:
        host = overrides[3] if "--main_process_ip" in overrides else "127.0.0.1"
        assert config.rdzv_configs["rank"] == rank and config.rdzv_endpoint.startswith(f"{host}:")


# The others start in tests/test_unbreakable.py and tests/test_two_nodes.py.
@pytest.mark.parametrize("name", ["eight_gpus.yaml", pytest.param("one_gpu.yaml", marks=pytest.mark.slow)])
def test_a_configuration_starts_as_many_processes_as_it_says(name: str, checkout: Checkout):
    words = ["accelerate", "launch", "--config_file", f"launch/{name}", "--main_process_port", 0, "--no_python"]
    code, out, err = checkout.run(*words, "sh", "-c", 'echo "$RANK/$WORLD_SIZE of $LOCAL_RANK/$LOCAL_WORLD_SIZE"')
    wanted = [f"{rank}/{PROCESSES[name]} of {rank}/{PROCESSES[name]}" for rank in range(PROCESSES[name])]
    assert (code, sorted(out.splitlines())) == (0, wanted), err


# Scripts


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_parses_and_says_what_is_missing_when_nothing_is_given(name: str, checkout: Checkout):
    subprocess.run(["bash", "-n", LAUNCH / name], check=True)
    code, out, err = checkout.run("bash", f"launch/{name}")
    assert (code, out, len(err.splitlines())) == (2, "", 2), err
    assert err.startswith("Error: ") and "\nFix:   " in err


# As Slurm's: a task on every node, told its number; signals go on to all of them; the worst exit code is its own.
SRUN = """
import os, signal, subprocess, sys
command = sys.argv[sys.argv.index("bash"):]
nodes = range(int(os.environ["SLURM_NNODES"]))
tasks = [subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(node)}) for node in nodes]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(abs(task.wait()) for task in tasks))
"""
SCONTROL = """
import pathlib, sys
pathlib.Path("requeued").open("a").write(" ".join(sys.argv[1:]) + chr(10))
"""


def test_the_slurm_job_whose_time_is_up_is_stopped_requeued_and_goes_on_to_the_same_bytes(
    checkout: Checkout, plain: Plain
):
    checkout.command("srun", SRUN)
    checkout.command("scontrol", SCONTROL)
    job = {"SLURM_JOB_ID": 12345, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_GPUS_ON_NODE": 1, "SLURM_CPUS_PER_TASK": 1}
    command = ["bash", "launch/slurm.sbatch", *plain.arguments]
    stopped = checkout.start(*command, **job, SLURM_NNODES=1, SLURM_NTASKS=1)
    checkout.wait_for_parts(2)
    stopped.send_signal(signal.SIGUSR1)
    _, err = stopped.communicate(timeout=PATIENCE_S)
    assert stopped.returncode == 143, err
    assert (checkout.folder / "requeued").read_text() == "requeue 12345\n"
    left = stored_files(checkout.folder / "embeddings")
    assert 2 <= len(left) < 48 and left.items() <= plain.files.items()
    code, out, err = checkout.run(*command, **job, SLURM_NNODES=2, SLURM_NTASKS=2, SLURM_RESTART_COUNT=1)
    assert (code, out) == (0, plain.table), err
    assert stored_files(checkout.folder / "embeddings") == plain.files


def test_the_slurm_job_refuses_several_launchers_a_node_and_no_gpus(checkout: Checkout, plain: Plain):
    checkout.command("scontrol", SCONTROL)
    job = {"SLURM_JOB_ID": 1, "SLURM_NNODES": 2, "SLURM_JOB_NODELIST": "n[1-2]"}
    for settings, words in (
        ({"SLURM_NTASKS": 16, "SLURM_GPUS_ON_NODE": 8}, "16 launchers on 2 nodes"),
        ({"SLURM_NTASKS": 2}, "no GPUs"),
    ):
        code, _, err = checkout.run("bash", "launch/slurm.sbatch", *plain.arguments, **job, **settings)
        assert code == 2 and words in err


HOSTS_AND_REQUEUES = """
import pathlib, sys
if sys.argv[1] == "show":
    print("127.0.0.1")
else:
    pathlib.Path("requeued").open("a").write(" ".join(sys.argv[1:]) + chr(10))
"""


@pytest.mark.slow
def test_a_fine_tuning_by_slurm_whose_time_is_up_is_requeued_and_goes_on_after_its_last_step(
    checkout: Checkout, shapes: Sharded
):
    checkout.command("srun", SRUN)
    checkout.command("scontrol", HOSTS_AND_REQUEUES)
    job = {"SLURM_JOB_ID": 7, "SLURM_JOB_NODELIST": "n1", "SLURM_GPUS_ON_NODE": 2, "SLURM_NNODES": 1,
           "SLURM_NTASKS": 1, "PORT": free_port()}  # fmt: skip
    command = ["bash", "launch/slurm_finetune.sbatch", "shapes/outline", "--test", "shapes/flat", "-b", "tiny",
               "--shards", shapes.shards, "--batch-size", 4, "--epochs", 40]  # fmt: skip
    stopped = checkout.start(*command, **job)

    def steps() -> int:
        return sum(path.read_text().count('"step", ') for path in checkout.folder.glob("finetuned/*/log.jsonl"))

    wait_until(lambda: steps() >= 5, "five steps")
    stopped.send_signal(signal.SIGUSR1)
    _, err = stopped.communicate(timeout=PATIENCE_S)
    assert stopped.returncode == 143, err
    assert (checkout.folder / "requeued").read_text() == "requeue 7\n"
    (saved,) = checkout.folder.glob("finetuned/*/checkpoints/step-*")
    again = checkout.start(*command, **job, SLURM_RESTART_COUNT=1)
    wait_until(lambda: steps() > int(saved.name[5:]) + 3, "steps after those of before")
    again.send_signal(signal.SIGUSR1)
    _, err = again.communicate(timeout=PATIENCE_S)
    assert f"Going on after step {int(saved.name[5:])}." in err


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_the_slurm_array_completes_although_two_of_its_workers_are_stopped(checkout: Checkout, plain: Plain):
    checkout.command("scontrol", SCONTROL)
    array = {"SLURM_ARRAY_TASK_COUNT": 3, "SLURM_ARRAY_TASK_MIN": 1, "SLURM_ARRAY_TASK_MAX": 3}
    command = ["bash", "launch/slurm_array.sbatch", *plain.arguments, "--workers", 1]
    tasks = [
        checkout.start(*command, **array, SLURM_ARRAY_TASK_ID=share, SLURM_JOB_ID=100 + share) for share in (1, 2, 3)
    ]
    checkout.wait_for_parts(2)
    tasks[1].send_signal(signal.SIGUSR1)
    tasks[2].terminate()
    ends = [(task.communicate(timeout=PATIENCE_S), task.returncode) for task in tasks]
    assert [code for _, code in ends] == [0, 143, 143], ends
    assert [out for (out, _), _ in ends] == [plain.table, "", ""]
    requeued = (checkout.folder / "requeued").read_text()
    assert requeued == "requeue 102\n", "whose time is up comes again, what scancel ended does not"
    assert stored_files(checkout.folder / "embeddings") == plain.files


def test_the_slurm_array_refuses_numbers_that_are_no_shares(checkout: Checkout, plain: Plain):
    array = {"SLURM_ARRAY_TASK_COUNT": 3, "SLURM_ARRAY_TASK_MIN": 0, "SLURM_ARRAY_TASK_MAX": 2}
    code, _, err = checkout.run("bash", "launch/slurm_array.sbatch", *plain.arguments, **array, SLURM_ARRAY_TASK_ID=0)
    assert code == 2 and "must be 1-N" in err


@pytest.mark.slow
def test_the_full_table_is_written_and_says_which_datasets_are_missing(checkout: Checkout, plain: Plain):
    small = {"DATASETS": "shapes", "BACKBONES": "-b tiny", "SHARDS": plain.shards, "EVAL": "--batch-size 64"}
    code, out, err = checkout.run("launch/full_table.sh", 2, **small)
    assert (code, out) == (0, plain.table), err
    assert "Process 1 of 2" in err
    assert (checkout.folder / "full_table.txt").read_text() == plain.table
    assert (checkout.folder / "full_table.json").read_bytes() == plain.record
    assert stored_files(checkout.folder / "embeddings") == plain.files
    code, _, err = checkout.run("launch/full_table.sh", 2, SHARDS=plain.shards)
    assert code == 2 and "officehome office31 pacs vlcs domainnet terraincognita visda17 imagenet-r" in err


@pytest.mark.slow
def test_the_full_table_ends_with_fastclips_own_exit_code(checkout: Checkout, plain: Plain):
    small = {"DATASETS": "shapes", "BACKBONES": "-b tiny", "SHARDS": plain.shards, "EVAL": "--unreadable no"}
    code, out, err = checkout.run("launch/full_table.sh", 1, **small)
    assert (code, out) == (2, "") and "--unreadable does not know 'no'" in err
    assert not list(checkout.folder.glob("full_table*"))


# Kubernetes


def expanded(word: str, environment: dict[str, str]) -> str:
    """What Kubernetes makes of a word of `command`: `$(NAME)` is the value, what is no NAME stays as it is."""
    return re.sub(r"\$\(([^)]*)\)", lambda match: environment.get(match[1], match[0]), word)


def test_the_kubernetes_job_gives_every_index_its_share_and_retries_what_a_retry_helps():
    (job,) = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["apiVersion"], job["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    assert pod["restartPolicy"] == "Never", "podFailurePolicy and backoffLimitPerIndex are refused with any other"
    assert spec["backoffLimitPerIndex"] > 0 and "backoffLimit" not in spec
    for rule in spec["podFailurePolicy"]["rules"]:
        if rule["action"] == "FailJob":
            codes = rule["onExitCodes"]
            assert (codes["operator"], sorted(codes["values"])) == ("In", [2, 3, 5])
            assert codes["containerName"] == container["name"]
        else:
            assert rule == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert pod["terminationGracePeriodSeconds"] >= 30
    (workers,) = (each["value"] for each in container["env"] if each["name"] == "WORKERS")
    assert int(workers) == spec["completions"] == spec["parallelism"]
    assert "/" not in container["image"], "whose image it is stands in nobody else's file"
    volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
    assert [mount["name"] for mount in container["volumeMounts"]] == list(volumes)


def test_the_containers_of_kubernetes_compute_the_same_bytes(checkout: Checkout, plain: Plain):
    (job,) = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]} | {"WORKERS": "2"}
    command = [expanded(word, environment) for word in container["command"]]
    command[2] = command[2].replace("/data/shards", str(plain.shards)).replace("/data/", "")
    arguments = plain.arguments[: plain.arguments.index("--shards")]
    pods = [checkout.start(*command, *arguments, **environment, JOB_COMPLETION_INDEX=index) for index in (0, 1)]
    ends = [(pod.communicate(timeout=PATIENCE_S), pod.returncode) for pod in pods]
    assert [(code, out) for (out, _), code in ends] == [(0, plain.table), (0, "")], ends
    assert stored_files(checkout.folder / "embeddings") == plain.files


# Commands that are printed to be typed


def printed_commands() -> list[str]:
    """Every command in the README's indented blocks and in the comment that a file begins with."""
    found = []
    for path in sorted(LAUNCH.iterdir()):
        text = path.read_text()
        if path.suffix == ".md":
            lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
        else:
            comments = [line for line in text.splitlines() if not line.startswith("#!")]
            lines = [line[2:] for line in comments[: next(n for n, c in enumerate(comments) if c[:1] != "#")]]
        for command in re.sub(r" \\\n +", " ", "\n".join(lines)).splitlines():
            command = re.sub(r"^([A-Z_]+=\S+ )+", "", command)
            if re.match(r"(accelerate|fastclip|sbatch|kubectl|launch/\S+) ", command):
                found.append(re.split(r"   +| # |      \(", command)[0])
    return sorted(set(found))


def parse_fastclip(words: Sequence[str]) -> None:
    """Parse the words after `fastclip` as the program does, without running it."""
    group = typer.main.get_command(app)
    name, command, rest = group.resolve_command(group.make_context("fastclip", list(words)), list(words))
    command.make_context(name, rest)


def parse_accelerate(words: Sequence[str]) -> None:
    arguments = launch_command_parser().parse_args([*words])
    assert (REPOSITORY / arguments.config_file).is_file()
    assert arguments.module and arguments.training_script == "fastclip"
    parse_fastclip(arguments.training_script_args)


def parse_sbatch(words: Sequence[str]) -> None:
    script = next(n for n, word in enumerate(words) if word.startswith("launch/"))
    assert (REPOSITORY / words[script]).is_file()
    parse_fastclip(["finetune" if "finetune" in words[script] else "eval", *words[script + 1 :]])


def parse_kubectl(words: Sequence[str]) -> None:
    assert words[0] in ("logs", "get", "delete") or (REPOSITORY / words[-1]).is_file()


@pytest.mark.parametrize("command", printed_commands())
def test_a_printed_command_has_only_options_and_files_that_there_are(command: str):
    program, *words = shlex.split(command)
    parsers: dict[str, Callable[[Sequence[str]], None]] = {
        "fastclip": parse_fastclip,
        "accelerate": lambda words: parse_accelerate(words[1:]),
        "sbatch": parse_sbatch,
        "kubectl": parse_kubectl,
    }
    if program.startswith("launch/"):
        assert os.access(REPOSITORY / program, os.X_OK) and len(words) == 1
    else:
        parsers[program](words)


def test_every_file_begins_with_its_usage_and_stands_in_the_readme():
    readme = (LAUNCH / "README.md").read_text()
    for name in (*CONFIGS, *SCRIPTS, "kubernetes.yaml"):
        assert f"launch/{name}" in "\n".join((LAUNCH / name).read_text().splitlines()[:4]), name
        assert name in readme, name
