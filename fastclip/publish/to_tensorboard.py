"""Runs as event files for TensorBoard, written by its own library, without TensorFlow and torch."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastclip.files import replace_file, write_whole
from fastclip.publish.runs import TrackedRun
from fastclip.publish.targets import Target
from fastclip.publish.trackers import Begun, Files, Row, table_text

WHOLE = "_hparams_/session_start_info"
"""The tag that the end of a run has."""


class TensorBoard:
    """A folder of runs, each a folder with an event file for each time that it was gone on with."""

    def __init__(self, target: Target) -> None:
        self._folder = Path(target.place)

    def begin(self, run: TrackedRun, *, live: bool) -> Begun:
        """The part of a run that its event files hold. A torn end of one counts as not there, and stays behind."""
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

        self._run = self._folder / f"{_folder_name(run.name)}-{run.id[:8]}"
        files = sorted(self._run.glob(f"events.out.tfevents.*.fastclip.{run.id}"))
        events = [event for file in files for event in EventFileLoader(str(file)).Load()]
        tags = {value.tag for event in events for value in event.summary.value}
        self._next = self._run / f"events.out.tfevents.{len(files):010d}.fastclip.{run.id}"
        self._writer: Any = None
        return Begun(WHOLE in tags, max((event.step for event in events if event.summary.value), default=-1))

    def log(self, rows: Sequence[Row]) -> None:
        """Append steps to the event file of this session."""
        if self._writer is None:
            self._run.mkdir(parents=True, exist_ok=True)
            self._writer = _begun(self._next.open("xb"))
        for row in rows:
            self._writer.write(_scalars(row).SerializeToString())
        self._writer.flush()

    def finish(self, run: TrackedRun, files: Files) -> None:
        """Put the files beside the events, then the events: all of them or none."""
        for name, text in files.items():
            write_whole(self._run / name, text.encode())
        if self._writer is not None:
            for event in _ends(run):
                self._writer.write(event.SerializeToString())
            return self._writer.close()

        def write(file: Any) -> None:
            writer = _begun(file)
            for event in _ends(run):
                writer.write(event.SerializeToString())

        return replace_file(self._next, write)

    def leave(self) -> None:
        """Close the event file of this session."""
        if self._writer is not None:
            self._writer.close()

    def where(self) -> str:
        """The command that shows them."""
        return f"tensorboard --logdir {self._folder}"


def _begun(file: Any) -> Any:
    """A writer of events to a file, whose first event is written."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    writer = RecordWriter(file)
    writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
    return writer


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")[:80]


def _scalars(row: Row) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=name, simple_value=value) for name, value in row.metrics.items()]
    return Event(wall_time=time.time(), step=row.step, summary=Summary(value=values))


def _ends(run: TrackedRun) -> Iterator[Any]:
    """The facts of a run, its metrics and its table, as events."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.text.metadata import create_summary_metadata

    now = time.time()
    config = {name: value for name, value in run.config.items() if value is not None}
    if run.metrics:
        yield _scalars(Row(0, run.metrics))
    if run.rows or run.notes:
        # tensorboard.plugins.text.summary would do the same, but needs TensorFlow.
        tensor = TensorProto(dtype=DT_STRING, string_val=[table_text(run).encode()])
        value = Summary.Value(tag="table", tensor=tensor, metadata=create_summary_metadata("table", ""))
        yield Event(wall_time=now, summary=Summary(value=[value]))
    yield Event(wall_time=now, summary=hparams_pb(config, trial_id=run.id, start_time_secs=now))
