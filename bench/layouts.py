#!/usr/bin/env python3
"""The quickstart in many layouts of 8 thread ranks, beside one rank with a thread a core, in turn.

usage: bench/layouts.py [--rounds N] [--steps N] [KEY=VALUE ...]

Prints, as Markdown, without each run's first three steps: the median of tokens/s, the CPU time of a step
(of all ranks; the median of the rounds) and its ratio to that of one rank in the same round, and what
rank 0 sends in a step, by axes. Where others use the machine CPU time is what can be compared: a process
of many threads gets more of the processors. Works in the repository's root; data are those of
launch/corpora, which are made if they are missing.
"""
import argparse, json, os, pathlib, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BINARY = pathlib.Path(os.environ.get("PENTAFOLD_BUILD", ROOT / "build")) / "pentafold"
RANKS, SEQUENCES, UNMEASURED = 8, 16, 3
LAYOUTS = [
    {},
    {"zero": 1},
    {"ep": 8},
    {"ep": 8, "zero": 1},
    {"etp": 2, "ep": 4},
    {"tp": 2},
    {"tp": 2, "ep": 8},
    {"tp": 2, "etp": 2, "ep": 4},
    {"tp": 4, "ep": 8},
    {"cp": 2, "ep": 8},
    {"cp": 4, "ep": 8, "cp_method": "ulysses"},
    {"cp": 4, "ep": 8, "cp_method": "two_level"},
    {"cp": 8, "ep": 8},
    {"cp": 8, "ep": 8, "cp_method": "ring"},
    {"tp": 2, "cp": 2, "ep": 8},
    {"tp": 2, "cp": 4, "ep": 4, "etp": 2},
    {"pp": 2, "ep": 4},
    {"pp": 4, "ep": 2},
    {"pp": 4, "ep": 2, "schedule": "zbh1"},
    {"tp": 2, "pp": 2, "ep": 4},
    {"tp": 2, "cp": 2, "pp": 2, "ep": 4},
]


def replicas(layout):
    return RANKS // layout.get("tp", 1) // layout.get("cp", 1) // layout.get("pp", 1)


def text(layout):
    dp = replicas(layout)
    sizes = {key: layout[key] for key in ("tp", "cp") if key in layout} | ({"dp": dp} if dp > 1 else {})
    return ", ".join(f"{key} {value}" for key, value in (sizes | layout).items())


def cpu_seconds(process):
    """Of all its threads so far."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def step_lines(path):
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [step for step in (json.loads(line) for line in lines if line.endswith("\n")) if "loss" in step]


def train(arguments, steps):
    """The steps that count, and the CPU seconds of one."""
    with tempfile.TemporaryDirectory() as folder:
        command = [BINARY, "train", "configs/quickstart.yaml", *arguments, f"run.folder={folder}/run",
                   f"train.steps={steps + 1}", "train.sample_bytes=0", "data.heldout_windows=4", "checkpoint.every=0"]
        with open(f"{folder}/errors", "w+") as errors:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
            seen = []  # steps and seconds; one more step follows, so that a late look sees no evaluation
            while len(seen) < 2 and process.poll() is None:
                time.sleep(0.02)
                count = len(step_lines(pathlib.Path(f"{folder}/run/metrics.jsonl")))
                if count >= (steps if seen else UNMEASURED):
                    seen.append((count, cpu_seconds(process)))
            if process.wait() != 0 or len(seen) < 2:
                errors.seek(0)
                sys.exit(f"{' '.join(map(str, command))}\n{errors.read()}")
        (begin, begin_cpu), (end, end_cpu) = seen
        steps = step_lines(pathlib.Path(f"{folder}/run/metrics.jsonl"))[UNMEASURED:]
        return steps, (end_cpu - begin_cpu) / (end - begin)


def of_layout(layout):
    # A pipeline has two micro-batches a stage.
    micro_batches = 2 * layout["pp"] if "pp" in layout else 1
    micro_batch = min(8, max(1, SEQUENCES // replicas(layout) // micro_batches))
    parallel = ", ".join(f"{key}: {value}" for key, value in ({"ranks": RANKS, "threads": 1} | layout).items())
    return [f"parallel={{{parallel}}}", f"train.micro_batch={micro_batch}"]


def rate(steps):
    return statistics.median(step["tokens_per_s"] for step in steps)


def sent(steps):
    """MB by axes, where it is 0.05 or more: the median of the steps, since routing decides what goes over ep."""
    axes = {axes: None for step in steps for axes in step["sent"]}
    all_of = {of: statistics.median(step["sent"].get(of, 0) for step in steps) / 1e6 for of in axes}
    return ", ".join(f"{of} {size:.2f}" for of, size in all_of.items() if size >= 0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    if not (ROOT / "data/corpora/english.txt").exists():
        subprocess.run([ROOT / "launch/corpora", "data/corpora"], cwd=ROOT, check=True)
    one = ["--ranks", "1", "--threads", str(os.cpu_count())]
    runs = {f"1 rank, {os.cpu_count()} threads": one} | {text(layout): of_layout(layout) for layout in LAYOUTS}
    measured, seconds, ratios = ({name: [] for name in runs} for _ in range(3))
    for _ in range(options.rounds):
        for name, arguments in runs.items():
            steps, cpu = train([*arguments, *options.overrides], options.steps)
            measured[name] += steps
            seconds[name].append(cpu)
            if arguments is one:
                of_one = seconds[name][-1]
            ratios[name].append(seconds[name][-1] / of_one)
            print(f"{name}: {rate(steps):.0f} tokens/s, {cpu:.3f} CPU s a step", file=sys.stderr, flush=True)
    print("| layout | tokens/s | CPU s a step | of one rank's | MB that rank 0 sends in a step |\n|---|---|---|---|---|")
    for name, steps in measured.items():
        print(f"| {name} | {rate(steps):.0f} | {statistics.median(seconds[name]):.2f} | "
              f"{statistics.median(ratios[name]):.2f} | {sent(steps)} |")


if __name__ == "__main__":
    main()
