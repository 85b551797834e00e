#!/usr/bin/env python3
"""One layer of bench/peer/train_peer.py: forward, backward and AdamW, as bench/layer.cpp does it.

layer.py moe|dense bf16|f32 THREADS SEQUENCE STEPS [--compile]; prints one JSON line.
"""
import json
import os
import statistics
import sys
import time

kind, dtype, threads, sequence, steps = sys.argv[1:6]
compiled = "--compile" in sys.argv
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "peer"))
sys.argv = ["train_peer.py", "--model", kind, "--dtype", dtype, "--data", "none"]
import torch  # noqa: E402
import train_peer as peer  # noqa: E402

torch.set_num_threads(int(threads))
torch.manual_seed(1)
tokens, sequence, steps = 4096, int(sequence), int(steps)
layer = peer.Layer()
for weight in layer.parameters():
    if weight.dim() > 1:
        torch.nn.init.normal_(weight, std=0.02)
optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
call = torch.compile(layer) if compiled else layer
cos, sin = peer.rope_table(sequence)
x = torch.randn(tokens // sequence, sequence, peer.HIDDEN, requires_grad=True)
seconds = []
for _ in range(steps):
    begin = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
        y, balance = call(x, cos, sin)
        total = (y * x.detach()).sum() + 0.01 * balance
    total.backward()
    torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    x.grad = None
    seconds.append(time.perf_counter() - begin)
median = statistics.median(seconds[len(seconds) // 5:])
print(json.dumps({"layer": kind, "dtype": dtype, "threads": int(threads), "seq": sequence, "compile": compiled,
                  "tokens_per_s": round(tokens / median, 1), "torch": torch.__version__}))
