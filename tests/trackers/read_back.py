"""Prints as JSON what the real trackers say that they hold, below a folder."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def tensorboard(folder: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    found = {}
    for path in sorted(folder.iterdir()):
        held = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        scalars = {tag: [[each.step, each.value] for each in held.Scalars(tag)] for tag in held.Tags()["scalars"]}
        data = held.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        hparams = plugin_data_pb2.HParamsPluginData.FromString(data).session_start_info.hparams
        config = {name: getattr(value, value.WhichOneof("kind")) for name, value in hparams.items()}
        tables = [str(held.Tensors(tag)[0].tensor_proto.string_val[0], "utf-8") for tag in held.Tags()["tensors"]
                  if tag == "table"]  # fmt: skip
        files = sorted(each.name for each in path.iterdir() if "tfevents" not in each.name)
        found[path.name] = {"metrics": scalars, "config": config, "table": tables, "files": files}
    return found


def mlflow(folder: Path) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    found = {}
    for run in client.search_runs([client.get_experiment_by_name("exp").experiment_id]):
        name = run.info.run_id
        assert run.info.status == "FINISHED"
        paths = [Path(client.download_artifacts(name, each.path)) for each in client.list_artifacts(name)]
        files = {path.name: path.read_text() for path in paths}
        metrics = {
            key: [[each.step, each.value] for each in client.get_metric_history(name, key)] for key in run.data.metrics
        }
        found[run.info.run_name] = {
            "metrics": metrics, "config": run.data.params, "tags": run.data.tags, "files": files
        }  # fmt: skip
    return found


def trackio(project: str) -> dict[str, Any]:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    return {
        run.name: {"config": run.config, "logs": SQLiteStorage.get_logs(project, run.name)}
        for run in trackio.Api().runs(project)
    }


def wandb(folder: Path) -> dict[str, Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for path in sorted(folder.glob("offline-run-*/run-*.wandb")):
        run: dict[str, Any] = {
            "config": {},
            "metrics": [],
            "summary": {},
            "artifacts": [],
            "bytes": path.stat().st_size,
        }
        for data in _records(path.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                run["name"], run["id"], run["host"] = record.run.display_name, record.run.run_id, record.run.host
            for update in (record.run.config, record.config):
                run["config"] |= {each.key or each.nested_key[0]: json.loads(each.value_json) for each in update.update}
            row = {(each.key or "/".join(each.nested_key)): json.loads(each.value_json) for each in record.history.item}
            if row:
                run["metrics"].append(row)
            for each in record.summary.update:
                run["summary"][each.key or "/".join(each.nested_key)] = json.loads(each.value_json)
            if record.HasField("artifact"):
                run["artifacts"].append([record.artifact.type, [e.path for e in record.artifact.manifest.contents]])
        found.setdefault(run["name"], []).append(run)
    return found


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, after a header of seven bytes."""
    assert data[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(
        json.dumps(
            {
                "tensorboard": tensorboard(folder / "tb"),
                "mlflow": mlflow(folder / "ml"),
                "trackio": trackio("proj"),
                "wandb": wandb(folder / "wandb"),
            }
        )
    )
