"""Pentafold beside PyTorch (bench/peer) on the same two processors and the same bytes, in turn.

usage: bench/versus_pytorch.sh PYTHON [SECTION] [--rounds 3] [--steps 16] [--only TEXT]

PYTHON is one with torch (bench/peer/README.md). SECTION:
  speed    tokens/s, peak resident memory, time to the first step and share of the GEMM rate: both models, f32
           and bf16, sequences of 256 and 2048, 1 and 2 threads, 4,096 tokens a step
  ranks    two ranks of one thread, and eight, beside one of two threads at the same global batch; and DDP
  growth   longer sequences, more and smaller experts, a model of twice the width and depth: ours alone
  gemm     the models' products alone, beside the fastest library that PyTorch has for each
  quality  the mean loss of the last 20 of 300 steps at sequence 256 and 2 threads, and then bits per byte of
           held-out text; once, whatever --rounds
  all      (default) all but quality
--only: cases whose name has TEXT. Markdown goes to standard output, progress to standard error. PENTAFOLD_BUILD:
the build to measure.

A rate is the median of a run's steps after the fifth (of few steps: of the later half), as the peer has it. Ratios
are taken round by round, over the better of eager and compiled PyTorch by the median of its rounds; what has less
than 0.7 of the other's rate in the first round is not run again. Where the processor has no AVX-512, PyTorch's bf16
is many times slower than its f32, which then stands for both.
"""
import argparse
import collections
import datetime
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("PENTAFOLD_BUILD", ROOT / "build"))
CORPORA = [f"data/corpora/{name}.txt" for name in ("english", "cpp", "german", "japanese")]
TOKENS = 4096  # of a step
HAS_FAST_BF16 = "avx512bw" in pathlib.Path("/proc/cpuinfo").read_text()

Case = collections.namedtuple("Case", "model dtype sequence threads")


def name_of(case):
    return f"{case.model} {case.dtype}, {case.sequence}, {case.threads} thread{'s' if case.threads > 1 else ''}"


# ---- programs: each gives a dict of what it measured ----

def run(command, on_line=lambda line: None):
    """Standard output and what the system used, or the end of this program with the command's own words."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        lines = []
        for line in process.stdout:
            on_line(line)
            lines.append(line)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"versus_pytorch: this command ended with {process.returncode}:\n  {' '.join(words)}\n"
                     + "".join(lines[-5:]) + errors.read()[-3000:])
    return "".join(lines), usage


def steady(values):
    """The steps that count, by the peer's rule."""
    return values[min(5, len(values) // 2):]


def ours(case, steps, changes=(), ranks=1):
    first = []
    begin = time.perf_counter()

    def on_line(line):
        if not first and re.match(r" *1 +\d", line):
            first.append(time.perf_counter() - begin)

    with tempfile.TemporaryDirectory() as folder:
        rows = TOKENS // case.sequence
        output, usage = run(
            [BUILD / "pentafold", "train", f"configs/peer_{case.model}.yaml", f"run.folder={folder}/run",
             "run.resume=never", f"run.precision={case.dtype}", f"data.sequence={case.sequence}",
             "data.heldout_windows=1", f"train.steps={steps}", f"train.global_batch={rows}",
             f"train.micro_batch={rows // ranks}", "train.sample_bytes=0", "checkpoint.every=0", *changes,
             "--ranks", ranks, "--threads", case.threads], on_line)
        metrics = [json.loads(line) for line in open(f"{folder}/run/metrics.jsonl")]
    losses, evaluated = ([line for line in metrics if key in line] for key in ("loss", "heldout"))
    share = re.search(r"([\d.]+)% of this machine's GEMM rate", output)
    rates = [step["tokens_per_s"] for step in losses]
    return {"rate": statistics.median(steady(rates)), "memory": usage.ru_maxrss / 1024, "first": first[0],
            "first_begins": first[0] - TOKENS / rates[0], "share": float(share[1]) / 100,
            "losses": [step["loss"] for step in losses],
            "heldout": statistics.mean(evaluated[-1]["heldout"].values())}


def peer(case, steps, *options, ranks=1):
    output, _ = run([sys.executable, "bench/peer/train_peer.py", "--model", case.model, "--dtype", case.dtype, "--seq",
                     case.sequence, "--threads", case.threads, "--ranks", ranks, "--batch", TOKENS // ranks, "--steps",
                     steps, *options, "--data", *CORPORA])
    result = json.loads(output.splitlines()[-1])
    return {"rate": result["tokens_per_s"], "memory": result["peak_rss_mib"], "first": result["first_step_s"],
            "loss": result["loss_last"],
            "heldout": statistics.mean(result.get("heldout_bits_per_byte", {"": math.nan}).values())}


def products(program, dtype, threads, shapes):
    """Seconds of forward, input gradient and weight gradient of each shape."""
    output, _ = run([*program, dtype, threads, *shapes])
    lines = [json.loads(line) for line in output.splitlines()]
    return {line["shape"]: [line[f"{part}_s"] for part in ("forward", "input_gradient", "weight_gradient")]
            for line in lines}


# ---- comparing ----

def progress(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def in_turn(name, rounds, programs, peers=()):
    """What each program gave, round by round. Of `peers` (their names) one far behind the best is run once."""
    results = {what: [] for what in programs}
    for round_number in range(rounds):
        rates = {what: results[what][0]["rate"] for what in peers if results[what]}
        for what, program in programs.items():
            if rates and what in peers and rates[what] < 0.7 * max(rates.values()):
                continue
            results[what].append(program())
            progress(f"{name}, round {round_number + 1}: {what} {shown(results[what][-1]['rate'])} tokens/s")
    return results


def shown(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def middle(results, key):
    return statistics.median(result[key] for result in results)


def ratio(results, peers, key):
    """Median, least and greatest over the rounds in which both ran."""
    parts = [a[key] / b[key] for a, b in zip(results, peers)]
    return f"**{statistics.median(parts):.2f}** ({min(parts):.2f}, {max(parts):.2f})"


def row(*cells):
    print("| " + " | ".join(cells) + " |", flush=True)


def table(title, *heads):
    print(f"\n{title}\n")
    row(*heads)
    print("|" + "---|" * len(heads), flush=True)


def stand_in(dtype):
    """What PyTorch's user would take on this processor."""
    return dtype if HAS_FAST_BF16 else "f32"


def eager_and_compiled(case, steps, ranks=1):
    case = case._replace(dtype=stand_in(case.dtype))
    return {f"PyTorch {case.dtype} {way}": lambda options=options: peer(case, steps, *options, ranks=ranks)
            for way, options in (("eager", []), ("compiled", ["--compile"]))}


def best(results, peers, key, better):
    return better(peers, key=lambda name: middle(results[name], key))


# ---- sections ----

def cases(sequences=(256,), threads=(2,)):
    return [Case(model, dtype, sequence, count) for sequence in sequences for count in threads
            for model in ("moe", "dense") for dtype in ("bf16", "f32")]


def speed(options):
    table("Ours, PyTorch's, and the ratio: median (least, greatest). Memory in MiB. First step: seconds from the start of "
          "the process to its end, ours also to its begin.",
          "case", "tokens/s", "PyTorch", "ratio", "memory", "PyTorch", "ratio", "first step", "PyTorch", "ratio",
          "of GEMM rate")
    for case in cases((256, 2048), (2, 1)):
        if options.only not in name_of(case):
            continue
        peers = eager_and_compiled(case, options.steps)
        results = in_turn(name_of(case), options.rounds, {"ours": lambda: ours(case, options.steps), **peers}, peers)
        mine, cells = results["ours"], []
        for key, better in (("rate", max), ("memory", min), ("first", min)):
            name = best(results, peers, key, better)
            begins = f"{middle(mine, 'first_begins'):.2g} to " if key == "first" else ""
            cells += [begins + shown(middle(mine, key)),
                      f"{shown(middle(results[name], key))} ({name.removeprefix('PyTorch ')})",
                      ratio(mine, results[name], key)]
        row(name_of(case), *cells, f"{middle(mine, 'share'):.0%}")


# At the same global batch, in two micro-batches: with cores for all, a pipeline wants more.
EIGHT_RANKS = {"moe": ["parallel.tp=2", "parallel.cp=2", "parallel.ep=4", "parallel.pp=2", "train.micro_batch=8"],
               "dense": ["parallel.tp=2", "parallel.cp=2", "parallel.pp=2", "train.micro_batch=8"]}


def ranks(options):
    table("Tokens/s at equal global batch, and ratios: median (least, greatest). Eight ranks: tp 2, cp 2, pp 2, and "
          "ep 4 of the MoE.", "case", "1 rank x 2 threads", "2 x 1", "8 x 1", "DDP, 2 x 1", "2 x 1 over 1 x 2",
          "2 x 1 over DDP", "8 x 1 over 1 x 2")
    for case in cases():
        if options.only not in name_of(case):
            continue
        one, steps = case._replace(threads=1), options.steps
        ddp = eager_and_compiled(one, steps, ranks=2)
        results = in_turn(name_of(case), options.rounds, {
            "1 x 2": lambda: ours(case, steps), "2 x 1": lambda: ours(one, steps, ranks=2),
            "8 x 1": lambda: ours(one, steps, EIGHT_RANKS[case.model], ranks=8), **ddp}, ddp)
        name = best(results, ddp, "rate", max)
        rates = {what: shown(middle(results[what], "rate")) for what in ("1 x 2", "2 x 1", "8 x 1", name)}
        row(f"{case.model} {case.dtype}", *list(rates.values())[:3],
            f"{rates[name]} ({name.removeprefix('PyTorch ')})", ratio(results["2 x 1"], results["1 x 2"], "rate"),
            ratio(results["2 x 1"], results[name], "rate"), ratio(results["8 x 1"], results["1 x 2"], "rate"))


SMALL_EXPERTS = ["model.moe.experts=64", "model.moe.ffn=48", "model.moe.top_k=16"]
TWICE = {"moe": ["model.layers=8", "model.hidden=512", "model.heads=8", "model.kv_heads=4", "model.moe.ffn=768",
                 "model.moe.shared_ffn=768"],
         "dense": ["model.layers=12", "model.hidden=512", "model.heads=8", "model.kv_heads=4", "model.ffn=2048"]}


def growth(options):
    table("Ours alone at 2 threads: median (least, greatest). Tokens/s over those at sequence 256 with 8 experts of 384, "
          "top-2; and the share of the GEMM rate at twice the width and depth.", "case", "tokens/s", "sequence 2048",
          "64 experts of 48, top-16", "of GEMM rate", "at twice the size", "ratio")
    for case in cases():
        if options.only not in name_of(case):
            continue
        steps = options.steps
        programs = {"256": lambda: ours(case, steps), "2048": lambda: ours(case._replace(sequence=2048), steps),
                    "twice": lambda: ours(case, max(3, steps // 4), TWICE[case.model])}
        if case.model == "moe":
            programs["experts"] = lambda: ours(case, steps, SMALL_EXPERTS)
        results = in_turn(name_of(case), options.rounds, programs)
        base = results["256"]
        row(f"{case.model} {case.dtype}", shown(middle(base, "rate")), ratio(results["2048"], base, "rate"),
            ratio(results["experts"], base, "rate") if "experts" in results else "",
            f"{middle(base, 'share'):.0%}", f"{middle(results['twice'], 'share'):.0%}",
            ratio(results["twice"], base, "share"))


def shapes_of(model, width=256):
    """GROUPSxROWSxINPUTSxOUTPUTS: how many of these products the model has, all but routers'."""
    layers, ffn = (4, 3 * width // 2) if model == "moe" else (6, 4 * width)
    count = collections.Counter({f"1x{TOKENS}x{width}x256": 1})
    mlp = {f"1x{TOKENS}x{width}x{2 * ffn}": layers, f"1x{TOKENS}x{ffn}x{width}": layers}  # dense, or the shared expert
    count.update({f"1x{TOKENS}x{width}x{2 * width}": layers, f"1x{TOKENS}x{width}x{width}": layers, **mlp})
    if model == "moe":
        count.update({f"8x{TOKENS // 4}x{width}x{2 * ffn}": layers, f"8x{TOKENS // 4}x{ffn}x{width}": layers})
    return count


def gemm(options):
    table("Products alone (weights packed before): GFLOP/s, tokens/s with nothing else, and ours over the faster of MKL "
          "and oneDNN: median (least, greatest).", "products of", "ours", "PyTorch", "tokens/s", "PyTorch", "ratio")
    of_shapes = []
    for threads, width, dtype in itertools.product((2, 1), (256, 512), ("bf16", "f32")):
        name = f"{dtype}, width {width}, {threads} thread{'s' if threads > 1 else ''}"
        if options.only not in name:
            continue
        models = {model: shapes_of(model, width) for model in ("moe", "dense")}
        shapes = list(models["moe"] | models["dense"])
        mine, others = [], []
        for round_number in range(options.rounds):
            mine.append(products([BUILD / "bench/gemm"], dtype, threads, shapes))
            others.append(products([sys.executable, "bench/gemm.py"], stand_in(dtype), threads, shapes))
            progress(f"{name}, round {round_number + 1}")
        for model, count in models.items():
            flops = sum(6 * math.prod(map(int, shape.split("x"))) * n for shape, n in count.items())
            found = [[{"rate": 1 / sum(sum(seconds[shape]) * n for shape, n in count.items())} for seconds in rounds]
                     for rounds in (mine, others)]
            row(f"{model} {name}", *(f"{middle(rates, 'rate') * flops / 1e9:.1f}" for rates in found),
                *(shown(middle(rates, "rate") * TOKENS) for rates in found), ratio(*found, "rate"))
        for shape in shapes:
            fewest = [[min(times) for times in zip(*(seconds[shape] for seconds in rounds))]
                      for rounds in (mine, others)]
            of_shapes.append((name, shape, *(f"{b / a:.2f}" for a, b in zip(*fewest))))
    table("The same shape by shape (groups x rows x inputs x outputs), from the fewest seconds of all rounds.", "of",
          "shape", "forward", "input gradient", "weight gradient")
    for cells in of_shapes:
        row(*cells)


def quality(options):
    table("Mean loss of the last 20 of 300 steps of 4,096 tokens, sequence 256, 2 threads: windows of the same bytes in "
          "the same shares, drawn by each program's own random numbers; the same learning rates (50 steps of warmup, "
          "cosine to a tenth). The error is that of our mean, from its 20 steps. After them both read the same held-out "
          "bytes, 200 windows of each of the four sources: the mean of the sources' bits per byte.",
          "case", "loss", "PyTorch", "ratio", "error", "held out", "PyTorch", "ratio")
    of_peer = {}
    for case in cases():
        if options.only not in name_of(case):
            continue
        mine = ours(case, 300, ["data.heldout_windows=200"])
        last = mine["losses"][-20:]
        mean, error = statistics.mean(last), statistics.stdev(last) / math.sqrt(len(last))
        progress(f"{name_of(case)}: ours {mean:.4f}, held out {mine['heldout']:.4f}")
        same = case._replace(dtype=stand_in(case.dtype))
        if same not in of_peer:
            of_peer[same] = peer(same, 300, "--cosine", "--heldout")
        theirs = of_peer[same]
        row(f"{case.model} {case.dtype}", f"{mean:.4f}", f"{theirs['loss']:.4f} ({same.dtype})",
            f"**{mean / theirs['loss']:.3f}**", f"{error / mean:.1%}", f"{mine['heldout']:.4f}",
            f"{theirs['heldout']:.4f}", f"**{mine['heldout'] / theirs['heldout']:.3f}**")


SECTIONS = {"speed": speed, "ranks": ranks, "growth": growth, "gemm": gemm, "quality": quality}


def check_programs(sections):
    if importlib.util.find_spec("torch") is None:
        sys.exit(f"versus_pytorch: {sys.executable} has no torch; bench/peer/README.md shows how to install it")
    needed = [BUILD / "pentafold"] + [BUILD / "bench/gemm"] * ("gemm" in sections)
    for program in needed:
        if not program.exists():
            sys.exit(f"versus_pytorch: {program} is missing; ninja -C {BUILD} pentafold bench builds it")
    if not (ROOT / CORPORA[0]).exists():
        subprocess.run([ROOT / "launch/corpora", "data/corpora"], cwd=ROOT, check=True)
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        sys.exit("versus_pytorch: two processors are wanted; this process may use one")
    os.sched_setaffinity(0, processors[:2])


def heading(sections):
    version, _ = run([BUILD / "pentafold", "--version"])
    version = version.splitlines()
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    processor = f"{model[1] if model else 'an unnamed model'} ({version[1].removeprefix('CPU: ')})"
    print(f"`bench/versus_pytorch.sh PYTHON {' '.join(sys.argv[1:]) or 'all'}`, {datetime.date.today()}: two processors "
          f"of {processor}, {version[0]}, torch {importlib.metadata.version('torch')}.", flush=True)
    if HAS_FAST_BF16 or sections == ["growth"]:
        return
    rate = peer(Case("moe", "bf16", 256, 2), 2, "--batch", 512)["rate"]
    print(f"PyTorch's bf16 is slow here (moe, 256, 2 threads, 512 tokens a step: {shown(rate)} tokens/s): its f32 "
          "stands for it.", flush=True)


def main():
    parser = argparse.ArgumentParser(prog="bench/versus_pytorch.sh PYTHON", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS)
    parser.add_argument("section", nargs="?", choices=[*SECTIONS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if options.rounds < 1 or options.steps < 2:
        parser.error("at least one round and two steps are wanted")
    sections = [name for name in SECTIONS if name != "quality"] if options.section == "all" else [options.section]
    check_programs(sections)
    heading(sections)
    for section in sections:
        SECTIONS[section](options)


if __name__ == "__main__":
    main()
