#!/usr/bin/env python3
"""Compares a run's event files, as the tensorboard package reads them, with its metrics.jsonl.

tensorboard_check.py RUN
"""

import json
import math
import sys

SKIPPED = 77  # ctest counts this exit code as a skipped test

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(SKIPPED)


def expected(run):
    """By tag: the value of each step."""
    points = {}

    def add(tag, step, value):
        points.setdefault(tag, {})[step] = value

    for line in open(f"{run}/metrics.jsonl", encoding="utf-8"):
        entry = json.loads(line)
        step = entry["step"]
        for domain, value in entry.get("heldout", {}).items():
            add(f"heldout_bits_per_byte/{domain}", step, value)
        for domain, value in entry.get("heldout_per_token", {}).items():
            add(f"heldout_bits_per_token/{domain}", step, value)
        layers = entry.get("experts", [])
        if "heldout" in entry and layers:
            mean = lambda of: sum(of(layer) for layer in layers) / len(layers)
            for domain in layers[0]["domains"]:
                use = lambda layer: layer["domains"][domain]
                add(f"largest_expert_share/{domain}", step, mean(lambda l: use(l)["largest"]))
                add(f"chosen_scores/{domain}", step, mean(lambda l: use(l)["score"]))
                for other in layers[0]["overlap"].get(domain, {}):
                    value = mean(lambda l: l["overlap"][domain][other])
                    add(f"expert_overlap/{domain}, {other}", step, value)
        if "loss" not in entry:
            continue
        add("loss/train", step, entry["loss"])
        add("loss/balance", step, entry["balance_loss"])
        add("loss/z", step, entry["z_loss"])
        add("optimizer/grad_norm", step, entry["grad_norm"])
        add("optimizer/lr", step, entry["lr"])
        add("optimizer/skipped", step, float(entry["skipped"]))
        add("speed/tokens_per_s", step, entry["tokens_per_s"])
        for layer in entry.get("experts", []):
            add("expert_max_over_mean/" + layer["layer"], step, layer["max_mean"])
            add("dead_experts/" + layer["layer"], step, layer["dead"])
            if "dropped" in layer:
                add("dropped_choices/" + layer["layer"], step, layer["dropped"])
            if "share" in layer:
                add("expert_share/" + layer["layer"], step, layer["share"])
        for part, seconds in entry["seconds"].items():
            add(f"seconds/{part}", step, seconds)
        for axes, size in entry["sent"].items():
            add(f"sent_bytes/{axes}", step, size)
        for kind, size in entry["memory"].items():
            add(f"memory/{kind}_bytes", step, size)
    return points


def main(run):
    events = EventAccumulator(run, size_guidance={"scalars": 0, "histograms": 0}).Reload()
    wanted = expected(run)
    scalars = {t: {e.step: e.value for e in events.Scalars(t)} for t in events.Tags()["scalars"]}
    histograms = {
        t: {e.step: e.histogram_value.bucket for e in events.Histograms(t)}
        for t in events.Tags()["histograms"]
    }
    assert scalars.keys() | histograms.keys() == wanted.keys(), (
        scalars.keys() | histograms.keys()
    ) ^ wanted.keys()
    count = 0
    for tag, steps in wanted.items():
        found = histograms.get(tag, scalars.get(tag))
        assert found.keys() == steps.keys(), tag
        for step, value in steps.items():
            a, b = (value, found[step]) if isinstance(value, list) else ([value], [found[step]])
            assert len(a) == len(b), (tag, step)
            for want, have in zip(a, b):
                # f32, six decimals of seconds, five digits of shares
                same = math.isclose(want, have, rel_tol=1e-4, abs_tol=1e-6)
                assert same, (tag, step, want, have)
                count += 1
    assert count > 0
    print(f"{len(wanted)} tags, {count} values are those of metrics.jsonl")


main(*sys.argv[1:])
