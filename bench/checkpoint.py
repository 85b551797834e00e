#!/usr/bin/env python3
"""What saving costs a run: steps of configs/quickstart.yaml with checkpoints beside steps without any.

usage: bench/checkpoint.py [--rounds 3] [--steps 160] [--every 50] [KEY=VALUE ...]

Runs without checkpoints, with them written while training goes on, and with training waiting for them, in turn
in one session. A step's time is that from its line in metrics.jsonl to the next one's, so that what lies between
two steps counts; the first 5 and the last don't. Prints the mean and the median of all steps, and what they are
of those without checkpoints, round by round: the median, the least and the greatest ratio of means.
"""
import argparse, os, pathlib, re, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = pathlib.Path(os.environ.get("PENTAFOLD_BUILD", ROOT / "build")) / "pentafold"
UNMEASURED = 5  # steps


def train(arguments, steps):
    """Seconds of each step that counts, and seconds and bytes of each checkpoint that was written meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        metrics, output = pathlib.Path(folder, "run/metrics.jsonl"), pathlib.Path(folder, "output")
        command = [BINARY, "train", "configs/quickstart.yaml", f"run.folder={folder}/run", f"train.steps={steps}",
                   "train.sample_bytes=0", "data.heldout_windows=4", *arguments]
        with open(output, "wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        ends, size = [], 0
        while process.poll() is None and len(ends) < steps:
            time.sleep(0.002)
            now = metrics.stat().st_size if metrics.exists() else 0
            if now > size:
                size = now
                lines = metrics.read_bytes().count(b'"loss"')
                ends += [time.monotonic()] * (lines - len(ends))
        if process.wait() != 0:
            sys.exit(f"{' '.join(map(str, command))}\n{output.read_text()}")
        seconds = [b - a for a, b in zip(ends[UNMEASURED:], ends[UNMEASURED + 1:-1])]
        saved = re.findall(r"checkpoint of step (\d+): (.*) in ([\d.]+) s", output.read_text())
        return seconds, [(words, float(took)) for step, words, took in saved if int(step) < steps]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    if not (ROOT / "data/corpora/english.txt").exists():
        subprocess.run([ROOT / "launch/corpora", "data/corpora"], cwd=ROOT, check=True)
    every = f"checkpoint.every={options.every}"
    runs = {"none": ["checkpoint.every=0"], f"every {options.every} steps, async": [every, "checkpoint.async=true"],
            f"every {options.every} steps, training waits": [every, "checkpoint.async=false"]}
    steps, ratios, saved = ({name: [] for name in runs} for _ in range(3))
    for _ in range(options.rounds):
        for name, arguments in runs.items():
            seconds, checkpoints = train([*arguments, *options.overrides], options.steps)
            mean = statistics.mean(seconds)
            without = mean if name == "none" else without
            steps[name] += seconds
            ratios[name].append(mean / without)
            saved[name] += checkpoints
            print(f"{name}: mean {mean:.3f} s, median {statistics.median(seconds):.3f} s a step, "
                  f"{mean / without:.3f} of none", file=sys.stderr, flush=True)
    print("| checkpoints | mean s a step | median s a step | ratio of means | median of rounds (least, greatest) | "
          "one takes |\n|---|---|---|---|---|---|")
    of_none = statistics.mean(steps["none"])
    for name, seconds in steps.items():
        mean = statistics.mean(seconds)
        takes = f"{statistics.median(took for _, took in saved[name]):.1f} s, {saved[name][0][0]}" if saved[name] else ""
        print(f"| {name} | {mean:.3f} | {statistics.median(seconds):.3f} | {mean / of_none:.3f} | "
              f"{statistics.median(ratios[name]):.3f} ({min(ratios[name]):.3f}, {max(ratios[name]):.3f}) | {takes} |")


if __name__ == "__main__":
    main()
