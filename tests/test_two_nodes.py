"""Several machines: two network namespaces with a cable between them and one folder, and workers without a launcher."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from helpers import REPOSITORY, Plain, Program, Sharded, part_paths, shard, stored_files, wait_until

from fastclip.data.shapes import draw_shapes

PATIENCE_S = 300
"""For what takes ten seconds on two idle cores. Nothing here waits so long unless it is broken."""


@dataclass
class Node:
    """A machine, as far as the network and the processes that it sees are concerned: unplugging it kills them all."""

    name: str
    rank: int
    address: str
    folder: Path
    first: str
    """The address of the node of rank 0."""
    cable: str
    power: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def evaluate(self, *arguments: object, max_restarts: int = 0, command: str = "eval") -> None:
        """Run launch/two_nodes.yaml with one process a node instead of eight."""
        words = ["ip", "netns", "exec", self.name, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        words += [sys.executable, "-m", "accelerate.commands.launch"]
        words += ["--config_file", REPOSITORY / "launch" / "two_nodes.yaml", "--num_processes", 2]
        words += ["--machine_rank", self.rank, "--main_process_ip", self.first, "--max_restarts", max_restarts]
        # Both machines have one name here, so gloo, which asks for the address of its own, must be told the cable.
        environment = {**os.environ, "COLUMNS": "80", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": self.cable}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.power.append(
                subprocess.Popen(
                    [str(word) for word in (*words, "-m", "fastclip", command, *arguments)],
                    cwd=self.folder,
                    env=environment,
                    stdout=out,
                    stderr=err,
                )
            )

    @property
    def out(self) -> Path:
        return self.folder / f"{self.name}.out"

    @property
    def err(self) -> Path:
        return self.folder / f"{self.name}.err"

    def processes(self) -> list[psutil.Process]:
        """The launcher and what it started. The first process of a machine is its `init`: the launcher, here."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.power[-1].pid).children(recursive=True)
        return []

    def workers(self) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # a zombie is one too
                if "accelerate.commands.launch" not in process.cmdline():
                    found.append(process)
        return found

    def unplug(self) -> None:
        for power in self.power:
            power.kill()
            power.wait()

    def exit_code(self) -> int:
        return self.power[-1].wait(timeout=PATIENCE_S)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """Two namespaces of this test run only, connected by a cable of their own; gone when the test ends."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare"))):
        pytest.skip("two nodes need root, iproute2 and util-linux here")
    run = secrets.token_hex(3)
    names = [f"fastclip-{run}-{rank}" for rank in (0, 1)]
    cables = [f"fc{run}{rank}" for rank in (0, 1)]
    addresses = ["10.77.0.1", "10.77.0.2"]
    made: list[str] = []
    found: list[Node] = []

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine makes no network namespaces: ip {' '.join(words)}: {done.stderr.strip()}")

    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", cables[0], "netns", names[0], "type", "veth", "peer", "name", cables[1], "netns", names[1])
        for name, cable, address in zip(names, cables, addresses, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", cable, "up")
        probe = ["ip", "netns", "exec", names[0], "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "true"]
        if subprocess.run(probe, capture_output=True).returncode:
            pytest.skip("this machine makes no process namespaces")
        found += [Node(names[rank], rank, addresses[rank], tmp_path, addresses[0], cables[rank]) for rank in (0, 1)]
        yield found[0], found[1]
    finally:
        for node in found:
            node.unplug()
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=True)


def cut_the_cable(node: Node) -> None:
    (cable,) = (
        line.split(":")[1].split("@")[0].strip()
        for line in subprocess.check_output(["ip", "-n", node.name, "-o", "link"], text=True).splitlines()
        if ": fc" in line
    )
    subprocess.run(["ip", "-n", node.name, "link", "set", cable, "down"], check=True)


def begin(nodes: tuple[Node, Node], plain: Plain, store: Path, *, max_restarts: int = 0) -> None:
    """Start both launchers and return in the middle of their work."""
    for node in nodes:
        node.evaluate(*plain.arguments, "--store", store, max_restarts=max_restarts)
    wait_until(lambda: len(part_paths(store)) >= 4, "the first parts")
    ranks = []
    for node in nodes:
        (worker,) = node.workers()
        environment = worker.environ()
        ranks.append((environment["RANK"], environment["WORLD_SIZE"]))
    assert ranks == [("0", "2"), ("1", "2")]
    assert len(part_paths(store)) < 48


def assert_again_embeds_nothing(plain: Plain, store: Path, folder: Path) -> None:
    again = Program(folder).here("eval", *plain.arguments, "--store", store)
    assert (again.code, again.out) == (0, plain.table), again.err
    assert "Embedded" not in again.err


def test_a_killed_worker_is_started_again_by_its_own_launcher_and_both_nodes_end_complete(
    nodes: tuple[Node, Node], plain: Plain, tmp_path: Path
):
    first, second = nodes
    begin(nodes, plain, tmp_path / "store", max_restarts=1)
    (in_the_first,), (in_the_second,) = first.workers(), second.workers()
    in_the_second.kill()
    wait_until(lambda: second.workers() not in ([], [in_the_second]), "another worker")
    assert in_the_first.is_running(), "the other node's worker goes on"
    assert [node.exit_code() for node in nodes] == [0, 0], second.err.read_text()
    assert first.out.read_text() == plain.table and second.out.read_text() == ""
    assert stored_files(tmp_path / "store") == plain.files


def test_a_cut_cable_stops_nobody(nodes: tuple[Node, Node], plain: Plain, tmp_path: Path):
    begin(nodes, plain, tmp_path / "store")
    cut_the_cable(nodes[0])
    wait_until(lambda: nodes[0].out.read_text() == plain.table, "the table")
    wait_until(lambda: all(len(node.processes()) == 1 for node in nodes), "only the launchers are left")
    assert stored_files(tmp_path / "store") == plain.files
    # The launchers now wait for each other, five minutes long, in code of torch that takes no SIGTERM either.
    for node in nodes:
        node.unplug()
    assert_again_embeds_nothing(plain, tmp_path / "store", tmp_path)


@pytest.mark.slow
def test_when_the_second_node_dies_the_first_completes_and_prints_the_table(
    nodes: tuple[Node, Node], plain: Plain, tmp_path: Path
):
    first, second = nodes
    begin(nodes, plain, tmp_path / "store")
    second.unplug()
    wait_until(lambda: first.out.read_text() == plain.table, "the table")
    assert stored_files(tmp_path / "store") == plain.files


@pytest.mark.slow
def test_when_the_first_node_dies_with_the_rendezvous_the_second_completes_and_ends(
    nodes: tuple[Node, Node], plain: Plain, tmp_path: Path
):
    first, second = nodes
    begin(nodes, plain, tmp_path / "store")
    first.unplug()
    assert second.exit_code() == 0, second.err.read_text()
    assert len(part_paths(tmp_path / "store")) == 48, "prototypes are the first one's to compute"
    assert stored_files(tmp_path / "store").items() <= plain.files.items()
    assert_again_embeds_nothing(plain, tmp_path / "store", tmp_path)


@pytest.mark.slow
def test_when_both_nodes_die_the_same_commands_go_on_to_the_same_bytes(
    nodes: tuple[Node, Node], plain: Plain, tmp_path: Path
):
    begin(nodes, plain, tmp_path / "store")
    for node in nodes:
        node.unplug()
    left = stored_files(tmp_path / "store")
    assert len(part_paths(tmp_path / "store")) < 48 and left.items() <= plain.files.items()
    for node in nodes:
        node.evaluate(*plain.arguments, "--store", tmp_path / "store")
    assert [node.exit_code() for node in nodes] == [0, 0], nodes[0].err.read_text()
    assert nodes[0].out.read_text() == plain.table
    assert stored_files(tmp_path / "store") == plain.files
    assert left.items() <= stored_files(tmp_path / "store").items()


@pytest.mark.slow
def test_workers_without_a_launcher_finish_everything_when_one_of_them_is_killed(
    plain: Plain, fastclip: Program, tmp_path: Path
):
    store = tmp_path / "store"
    command = ["eval", *plain.arguments, "--store", store, "--workers", 1]
    workers = [fastclip.start(*command, "--share", f"{share}/3") for share in (1, 2, 3)]
    try:
        wait_until(lambda: len(part_paths(store)) >= 3, "the first parts")
        workers[1].kill()
        assert len(part_paths(store)) < 48
        ends = [(worker.communicate(timeout=PATIENCE_S), worker.returncode) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert [code for _, code in ends] == [0, -signal.SIGKILL, 0], ends
    assert [out for (out, _), _ in ends] == [plain.table, "", ""]
    assert "Everything is embedded" in ends[2][0][1]
    assert stored_files(store) == plain.files


@pytest.mark.slow
def test_nodes_that_train_together_start_again_together_when_a_process_is_killed(
    nodes: tuple[Node, Node], shapes: Sharded, tmp_path: Path
):
    draw_shapes(tmp_path / "source", seed=3, images_per_class=10, domains=["outline"])
    new = shard(tmp_path / "source", tmp_path / "shards", "new", shard_images=25)
    shutil.copytree(shapes.folder, new.shards / "shapes")
    words = ["new", "--test", "shapes/outline", "-b", "tiny", "--shards", new.shards, "--lr", "1e-4", "--epochs", 3,
             "--batch-size", 16, "--save-every", 0]  # fmt: skip
    for node in nodes:
        node.evaluate(*words, max_restarts=2, command="finetune")
    logs = [tmp_path / "finetuned"]
    wait_until(lambda: sum(path.read_text().count('"step"') for path in logs[0].glob("*/log.jsonl")) >= 8, "steps")
    (in_the_second,) = nodes[1].workers()
    in_the_second.kill()
    assert [node.exit_code() for node in nodes] == [0, 0], nodes[0].err.read_text() + nodes[1].err.read_text()
    assert "Going on after step" in nodes[0].err.read_text()
    assert "finetuned ce" in nodes[0].out.read_text() and nodes[1].out.read_text() == ""
