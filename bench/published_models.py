#!/usr/bin/env python3
"""What `pentafold check` says of published models and layouts, as Markdown.

usage: bench/published_models.py

First the four mixtures of experts of Liu et al. 2025 (arXiv 2504.14960, table 3) with their folded layouts, and
without folding: etp = tp, and ep the largest divisor of dp and of the experts. Then the two GPTs of Korthikanti et
al. 2022 (arXiv 2205.05198, table 3): parameters with states, and activations beside the paper's formulas, tensor by
tensor. Exits with 1 where a sum does not fit.
"""
import json, math, os, pathlib, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BINARY = pathlib.Path(os.environ.get("PENTAFOLD_BUILD", ROOT / "build")) / "pentafold"
GIB = 2**30
# Name, ranks, experts, folded: tp, ep, pp.
MIXTURES = [
    ("mixtral-8x22b", 128, 8, 2, 8, 8),
    ("llama3-8x70b", 256, 8, 8, 8, 16),
    ("qwen2-57b-a14b", 64, 64, 2, 4, 4),
    ("mixtral-8x22b-g8t8", 128, 64, 4, 8, 8),
]
AXES = ["tp", "ep", "etp", "edp", "cp x dp", "pp"]


def check(*overrides):
    command = [BINARY, "check", ROOT / "configs/mixtral_8x22b.yaml", *overrides, "--json"]
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {run.stderr}")
    return json.loads(run.stdout)


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def head(*cells):
    row(*cells)
    row(*("---" for _ in cells))


def gib(count):
    return f"{count / GIB:.2f}"


def sent(stage):
    """Calls, bytes and whether a group leaves a node of 8, by axes; those of few bytes together."""
    found = {}
    for traffic in stage["traffic"]:
        axes = traffic["axes"] if traffic["axes"] in AXES else "others"
        calls, size, leaves = found.get(axes, (0, 0, False))
        found[axes] = (calls + traffic["calls"], size + traffic["bytes"],
                       leaves or traffic["groups_leaving_a_node"] > 0)
    return found


def mixtures():
    memory, travel, savings = [], [], []
    for name, ranks, experts, tp, ep, pp in MIXTURES:
        dp = ranks // tp // pp
        both = {}
        for kind, sizes in (("folded", (1, ep)), ("not folded", (tp, math.gcd(dp, experts)))):
            etp, ep_of = sizes
            report = check(f"model.preset={name}", "--ranks", ranks, "cluster.ranks_per_node=8",
                           f"parallel={{tp: {tp}, etp: {etp}, ep: {ep_of}, pp: {pp}, zero: 1}}")
            worst = max(report["stages"], key=lambda stage: stage["peak_bytes"])
            most = max(report["stages"], key=lambda stage: sum(t["bytes"] for t in stage["traffic"]))
            of = f"{name}, {ranks} ranks, {kind}"
            memory.append((of, f"{tp}, {etp}, {ep_of}, {ranks // (etp * ep_of * pp)}, {pp}", worst["stage"],
                           *(gib(worst[key + "_bytes"]) for key in
                             ("weights", "gradients", "states", "copies", "activations", "most_buffers", "peak")),
                           f"{worst['flops']:.3g}"))
            by_axes = sent(most)
            travel.append((of, *("" if axes not in by_axes else
                                 f"{by_axes[axes][0]}: {gib(by_axes[axes][1])}" + ("*" if by_axes[axes][2] else "")
                                 for axes in AXES + ["others"])))
            both[kind] = (worst, by_axes)
        (with_it, sent_with), (without, sent_without) = both["folded"], both["not folded"]
        def total(of, leaving):
            return sum(size for calls, size, leaves in of.values() if leaves or not leaving)
        savings.append((name, f"{gib(without['peak_bytes'])} to {gib(with_it['peak_bytes'])}",
                        *(f"{gib(total(sent_without, leaving))} to {gib(total(sent_with, leaving))}"
                          for leaving in (False, True))))
    head("GiB", "tp, etp, ep, edp, pp", "stage", "weights", "gradients", "states", "copies", "activations",
         "most buffers", "peak", "FLOPs")
    for line in memory:
        row(*line)
    print()
    head("calls: GiB sent", *AXES, "others")
    for line in travel:
        row(*line)
    print()
    head("without to with folding, GiB", "peak", "sent", "sent on axes that leave a node")
    for line in savings:
        row(*line)


# Layers, hidden, heads, tp, pp, chunks, micro-batch.
GPTS = {"175B": (96, 12288, 96, 8, 8, 3, 1), "22B": (48, 6144, 64, 8, 1, 1, 4)}
SEQUENCE, VOCABULARY = 2048, 51200


def gpt(name):
    layers, hidden, heads, tp, pp, chunks, size = GPTS[name]
    parts = pp * chunks
    each = [layers // parts] * parts
    each[0] += 1
    each[-1] += 1
    stages = f"{each[0]}" if parts == 1 else ",".join(map(str, each))
    if parts == 1:
        stages = "even"
    report = check(f"model={{preset: gpt3-175b, layers: {layers}, hidden: {hidden}, heads: {heads}, "
                   f"ffn: {4 * hidden}, vocabulary: {VOCABULARY}, dropout: 0.1}}", f"data.sequence={SEQUENCE}",
                   f"train.micro_batch={size}", f"train.global_batch={8 * size * pp}", "train.head_chunk=1024",
                   "--ranks", tp * pp,
                   f"parallel={{tp: {tp}, pp: {pp}, chunks: {chunks}, stage_layers: '{stages}', "
                   f"schedule: {'interleaved' if chunks > 1 else 'one_f_one_b'}}}")
    return report["stages"]


def parameters(name, stages):
    layers, hidden, _, tp, pp, *_ = GPTS[name]
    stage = stages[0]
    matrices = 12 * layers * hidden**2 // (tp * pp)
    small = (7 * hidden // tp + 6 * hidden) * layers // pp
    ends = VOCABULARY // tp * hidden + SEQUENCE * hidden
    last = 2 * hidden if pp == 1 else 0
    if matrices + small + ends + last != stage["parameters"]:
        sys.exit(f"{name}: {stage['parameters']} parameters, expected {matrices + small + ends + last}")
    copied = matrices + (VOCABULARY // tp * hidden if pp == 1 else 0)
    wanted = {"weights": 4 * stage["parameters"], "copies": 4 * copied}
    for key, size in wanted.items():
        if stage[key + "_bytes"] != size:
            sys.exit(f"{name}: {stage[key + '_bytes']} bytes of {key}, expected {size}")
    rest = stage["gradients_bytes"] + stage["states_bytes"] - 12 * stage["parameters"]
    head(f"{name}, first stage: parameters", "a rank", "GiB")
    row("the paper's: matrices of layers, 18 bytes each", matrices, 18 * matrices / GIB)
    row("a second packed copy of them, for backward: 2 bytes each", "", 2 * matrices / GIB)
    row("biases and norms of layers, 16 bytes each", small, 16 * small / GIB)
    row("embedding and positions" + (", last norm" if last else "") + ", 16 bytes each", ends + last,
        16 * (ends + last) / GIB)
    if copied > matrices:
        row("two packed copies of the head, 4 bytes each", "", 4 * (copied - matrices) / GIB)
    row("scalars and alignment", "", f"{rest / GIB:.9f}")
    total = sum(stage[key + "_bytes"] for key in ("weights", "gradients", "states", "copies"))
    row("weights, gradients, states and copies of check", stage["parameters"], total / GIB)
    if 18 * matrices + 2 * matrices + 16 * (small + ends + last) + 4 * (copied - matrices) + rest != total:
        sys.exit(f"{name}: the rows do not add up to {total}")


# By part and op of a layer: what it is, and how often 1 / t of s b h bytes it is in the paper's equations 2 (tensor
# parallel alone; s of it times a / h), and 4 with selective recompute; `t` times where no rank has only its part.
PAPER = [
    ("residual", "add", "inputs of the two norms", lambda t, s: 4 * t, 4),
    ("attention", "all_gather", "input of q, k and v", lambda t, s: 2 * t, 2),
    ("attention", "add_bias", "q, k and v", lambda t, s: 6, 6),
    (None, None, "softmax of scores, its mask and what it leaves", lambda t, s: 5 * s, 0),
    ("attention", "attention", "output of attention, with lse", lambda t, s: 2, 2),
    ("mlp", "all_gather", "input of the MLP", lambda t, s: 2 * t, 2),
    ("mlp", "add_bias", "input of GELU", lambda t, s: 8, 8),
    ("mlp", "activation", "output of GELU", lambda t, s: 8, 8),
    (None, None, "masks of dropout", lambda t, s: 2 * t, 2),
]


def activations(name, stages):
    layers, hidden, heads, tp, pp, chunks, size = GPTS[name]
    unit = SEQUENCE * size * hidden * layers * (1 + (pp - 1) / (pp * chunks)) / tp
    found = {}
    for use in stages[0]["activations"]:
        key = (use["part"], use["op"]) if use["pass"] == "forward" else "what backward works with"
        found[key] = found.get(key, 0) + use["bytes"]
    total = sum(found.values())
    if total != stages[0]["activations_bytes"]:
        sys.exit(f"{name}: kinds are {total} bytes, activations {stages[0]['activations_bytes']}")
    head(f"{name}, first stage: activations", "no sequence parallelism, all kept", "sequence parallel, selective",
         "check", "check, GiB")
    sums = [0.0, 0.0]
    for part, op, what, alone, selective in PAPER:
        values = alone(tp, SEQUENCE * heads / hidden), selective
        sums = [a + b for a, b in zip(sums, values)]
        bytes_of_it = found.pop((part, op), 0)
        row(what + (f" ({part} {op})" if part else ""), *(f"{value:g}" for value in values),
            f"{bytes_of_it / unit:.5g}", gib(bytes_of_it))
    for key, size_of in sorted(found.items(), key=lambda item: -item[1]):
        if size_of >= 2**22:
            row(key if isinstance(key, str) else " ".join(key), "", "", f"{size_of / unit:.3g}", gib(size_of))
    rest = sum(size_of for size_of in found.values() if size_of < 2**22)
    row("all smaller than 4 MiB", "", "", f"{rest / unit:.3g}", gib(rest))
    row("sum", *(f"{value:g}" for value in sums), f"{total / unit:.5g}", gib(total))
    row("sum, GiB", *(value * unit / GIB for value in sums), "", total / GIB)


def main():
    mixtures()
    for name in GPTS:
        stages = gpt(name)
        print()
        parameters(name, stages)
        print()
        activations(name, stages)


main()
