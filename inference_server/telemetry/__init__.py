"""What is told of the server: logs, metrics, traces. None of it holds a patient's text."""
