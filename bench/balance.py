#!/usr/bin/env python3
"""Balance by micro-batch beside balance by global batch: the same run with one key changed, several seeds.

    launch/setup && bench/balance.py FOLDER [--steps 500] [--seeds 1 2 3] [KEY=VALUE ...]

It is the quickstart with one sequence in a micro-batch and 32 in the global batch, of which `global`
counts all together. A run goes to FOLDER/KIND-SEED; one that ended there before is not run again.
Prints a table in Markdown: each number is the mean over the seeds, then the lowest to the highest.
"""
import argparse, json, os, pathlib, statistics, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
KINDS = ["micro", "global"]


def command(args, kind, seed):
    return [args.program, "train", str(ROOT / "configs/quickstart.yaml"), f"model.moe.balance.kind={kind}",
            f"run.seed={seed}", f"run.folder={args.folder / f'{kind}-{seed}'}", f"train.steps={args.steps}",
            "train.micro_batch=1", "train.global_batch=32", "model.moe.balance.group=32",
            "train.sample_bytes=0", "checkpoint.every=0", *args.keys, "--ranks", "1", "--threads", "1"]


def evaluation(folder):
    """The last record of a run that ended, or None."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    last = json.loads(lines[-1]) if lines else {}
    return last if "heldout" in last else None


def run_all(args):
    waiting = [(kind, seed) for seed in args.seeds for kind in KINDS
               if evaluation(args.folder / f"{kind}-{seed}") is None]
    running = []
    args.folder.mkdir(parents=True, exist_ok=True)
    while waiting or running:
        while waiting and len(running) < args.jobs:
            kind, seed = waiting.pop(0)
            with open(args.folder / f"{kind}-{seed}.log", "w", encoding="utf-8") as log:
                running.append(subprocess.Popen(command(args, kind, seed), stdout=log, stderr=log))
        if running.pop(0).wait():
            for run in running:
                run.wait()
            sys.exit(f"a run failed; see the logs in {args.folder}")


def measures(found):
    """By name of a row: the values by domain, and their mean."""
    layers, bits = found["experts"], found["heldout"]
    domains = list(bits)

    def by_domain(of):
        values = [of(domain) for domain in domains]
        return values + [statistics.fmean(values)]

    def over_layers(f, key):
        return by_domain(lambda d: f(layer["domains"][d][key] for layer in layers))

    def overlap(domain, other, layer):
        pairs = layer["overlap"]
        return pairs[domain][other] if other in pairs.get(domain, {}) else pairs[other][domain]

    return {
        "held-out bits per byte": by_domain(bits.get),
        "largest expert share, mean of the layers": over_layers(statistics.fmean, "largest"),
        "largest expert share, highest of the layers": over_layers(max, "largest"),
        "chosen scores": over_layers(statistics.fmean, "score"),
        "overlap with the other domains": by_domain(lambda d: statistics.fmean(
            overlap(d, o, layer) for layer in layers for o in domains if o != d)),
    }


def cell(values):
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def table(args):
    runs = {kind: [measures(evaluation(args.folder / f"{kind}-{seed}")) for seed in args.seeds] for kind in KINDS}
    domains = list(evaluation(args.folder / f"{KINDS[0]}-{args.seeds[0]}")["heldout"])
    print("| | balance | " + " | ".join(domains) + " | mean |\n|" + "---|" * (len(domains) + 3))
    for name in runs[KINDS[0]][0]:
        for kind in KINDS:
            cells = [cell(x) for x in zip(*(run[name] for run in runs[kind]))]
            print(f"| {name} | {kind} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at a time")
    parser.add_argument("--program", default=str(ROOT / "build/pentafold"))
    args = parser.parse_intermixed_args()
    run_all(args)
    table(args)


main()
