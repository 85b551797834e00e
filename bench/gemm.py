#!/usr/bin/env python3
"""bench/gemm.cpp in PyTorch: products with weights alone, by the fastest library that PyTorch has for each.

usage: gemm.py f64|f32|bf16 THREADS GROUPSxROWSxINPUTSxOUTPUTS ...

torch.mm (MKL for f32 and f64, oneDNN for bf16) and, where it takes the type, oneDNN's linear. A group is a product
of its own. A line of JSON for each shape, with the fewest seconds that each product took, by the faster library.
"""
import json
import sys
import time

import torch

TYPES = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16}


def fewest_seconds(call):
    """Of calls for a fifth of a second, after one that fills caches."""
    call()
    seconds, begin = [], time.perf_counter()
    while time.perf_counter() - begin < 0.2:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def mm(a, b):
    """a b'"""
    return torch.mm(a, b.t())


def one_dnn(a, b):
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def libraries(dtype):
    probe = torch.ones(32, 32, dtype=dtype)
    try:
        one_dnn(probe, probe)
        return [mm, one_dnn]
    except RuntimeError:  # not of this type on this processor
        return [mm]


def main():
    if len(sys.argv) < 4 or sys.argv[1] not in TYPES:
        sys.exit(__doc__)
    dtype, threads = TYPES[sys.argv[1]], int(sys.argv[2])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    usable = libraries(dtype)
    for shape in sys.argv[3:]:
        groups, rows, inputs, outputs = map(int, shape.split("x"))
        x = [torch.randn(rows, inputs).to(dtype) for _ in range(groups)]
        dy = [torch.randn(rows, outputs).to(dtype) for _ in range(groups)]
        w = [torch.randn(outputs, inputs).to(dtype) for _ in range(groups)]
        products = {"forward_s": (x, w), "input_gradient_s": (dy, [part.t() for part in w]),
                    "weight_gradient_s": ([part.t() for part in dy], [part.t() for part in x])}
        line = {"shape": shape, "dtype": sys.argv[1], "threads": threads}
        for name, (left, right) in products.items():
            line[name] = min(fewest_seconds(lambda: [product(a, b) for a, b in zip(left, right)]) for product in usable)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
