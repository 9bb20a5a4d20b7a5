"""The log of a run for TensorBoard: figures and pictures of its steps."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Log:
    """A file of events for one start of a run.

    What a call writes is on the disk when it returns, and what the disk refuses is raised by that call: TensorBoard's
    own writer has a thread, whose errors are printed as tracebacks beside the command's error.
    """

    def __init__(self, folder: Path, first: int):
        """Begin a file in `folder`, which is made; hides what starts before this one told of steps from `first` on."""
        folder.mkdir(exist_ok=True)
        before = len(list(folder.iterdir()))  # readers go by name: also of two starts in one second the later is last
        name = f"events.out.tfevents.{time.time():010.0f}.{before:06}.{socket.gethostname()}.{os.getpid()}"
        self.file = folder / name
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Tell the figures of a step, each by its name."""
        told = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=told)))

    def picture(self, step: int, name: str, file: Path) -> None:
        """Tell a picture of a step: a PNG in RGB."""
        with Image.open(file) as opened:
            width, height = opened.size
        shown = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=file.read_bytes())
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=shown)])))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with self.file.open("ab") as file:
            RecordWriter(file).write(event.SerializeToString())
