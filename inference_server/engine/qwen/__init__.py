"""The engine that runs a Qwen3 model: `host` on the server's event loop, everything else in a child process.

host ── commands, JSON over a pipe ──► worker ── batch ──► scheduler, model, sampling, thinking, writer
     ◄── events, one frame per step ──

Only `attention`, `cache`, `linear`, `loading`, `model`, `rotary`, `sampling` and `worker` may import torch.
"""
