"""Run as a program by tests: the real server, with an engine that dies when a file says so."""

import os
import sys

from inference_server.oom_note import OomNote
from inference_server.serve import run
from tests.unit.server.engines import MortalEngine

if __name__ == "__main__":
    note = OomNote(os.environ["TERMINATION_LOG_PATH"])
    note.start()
    code = run(note, lambda _: MortalEngine())
    note.stop()
    sys.exit(code)
