"""Progress that nobody reads any more does not end the job."""

import os

from ttq_energy.progress import ConsoleProgress


def test_a_closed_pipe_ends_the_telling_and_not_the_job():
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w", buffering=1)
    progress = ConsoleProgress(stream, every_s=0.0)
    progress.stage("One")
    os.close(reading)
    for text in ("a", "b"):
        progress.update(text)
        progress.note(text)
    progress.stage("Two")
    progress.close()
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, writing)
    os.close(devnull)
    stream.close()


def test_a_closed_stream(tmp_path):
    stream = (tmp_path / "log").open("w")
    progress = ConsoleProgress(stream)
    stream.close()
    progress.stage("One")
    progress.close()
