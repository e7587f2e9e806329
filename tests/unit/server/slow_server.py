"""Run as a program by tests: the real server, with answers that only somebody else ends."""

from inference_server.serve import serve_until_stopped
from inference_server.settings import load_settings
from inference_server.telemetry.logs import configure_logging
from tests.unit.server.engines import SlowEngine

if __name__ == "__main__":
    configure_logging("INFO")
    serve_until_stopped(load_settings(), SlowEngine())
