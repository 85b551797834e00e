#!/usr/bin/env bash
# Pentafold beside PyTorch, in turn, on the same cores and bytes: one layer, then the whole model of the
# quickstart. Prints each line as it comes and the ratios at the end: each of ours over the fastest that
# PyTorch has for it (eager or compiled, bf16 or f32: without AVX-512 its bf16 is many times slower than f32).
#   bench/beside_pytorch.sh PYTHON [ROUNDS=3] [STEPS=40]     PYTHON: one with torch (bench/peer/README.md)
set -euo pipefail

python=${1:?usage: bench/beside_pytorch.sh PYTHON [ROUNDS] [STEPS]}
rounds=${2:-3} steps=${3:-40}
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
build=${PENTAFOLD_BUILD:-$root/build}
data=data/corpora
files=("$data/english.txt" "$data/cpp.txt" "$data/german.txt" "$data/japanese.txt")
[[ -e ${files[0]} ]] || "$root/launch/corpora" "$data"
ninja -C "$build" --quiet pentafold bench
slow_steps=$steps  # of PyTorch's bf16
grep -qm1 avx512bw /proc/cpuinfo || slow_steps=2
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# rate NAME COMMAND...: the tokens_per_s of the JSON line that it prints, appended to the file NAME.
rate() {
  local name=$1 line
  shift
  line=$("$@" 2>"$out/errors" | grep '^{' | tail -n 1) || { cat "$out/errors" >&2; exit 1; }
  printf '%-16s %s\n' "$name" "$line"
  sed -E 's/.*"tokens_per_s": ?([0-9.]+).*/\1/' <<<"$line" >>"$out/$name"
}

# ours CONFIG RANKS THREADS: the median rate of the last lines of metrics.jsonl.
ours() {
  "$build/pentafold" train "$root/configs/$1.yaml" "run.folder=$out/run" "train.steps=$steps" \
    train.sample_bytes=0 checkpoint.every=0 data.heldout_windows=4 --ranks "$2" --threads "$3" >"$out/log" || cat "$out/log" >&2
  "$python" - "$out/run/metrics.jsonl" <<'EOF'
import json, statistics, sys
rates = [json.loads(line).get("tokens_per_s") for line in open(sys.argv[1])]
rates = [r for r in rates if r][5:]
print(json.dumps({"tokens_per_s": round(statistics.median(rates), 1), "steps": len(rates)}))
EOF
  rm -rf "$out/run"
}

# peer DTYPE STEPS [--compile]
peer() {
  "$python" "$root/bench/peer/train_peer.py" --model moe --dtype "$1" --seq 256 --threads 2 \
    --steps "$2" --data "${files[@]}" "${@:3}"
}

for ((round = 0; round < rounds; ++round)); do
  for kind in moe dense; do
    for dtype in bf16 f32; do
      rate "layer-$kind-$dtype-ours" "$build/bench/layer" "$kind" "$dtype" 2 256 "$steps"
    done
    rate "layer-$kind-bf16-torch" "$python" "$root/bench/layer.py" "$kind" bf16 2 256 "$slow_steps"
    rate "layer-$kind-f32-torch" "$python" "$root/bench/layer.py" "$kind" f32 2 256 "$steps"
  done
  rate quickstart-ours ours quickstart 2 1
  rate moe-ours ours peer_moe 1 2
  rate moe-bf16-eager peer bf16 "$slow_steps"
  rate moe-bf16-compiled peer bf16 "$slow_steps" --compile
  rate moe-f32-eager peer f32 "$steps"
  rate moe-f32-compiled peer f32 "$steps" --compile
done

"$python" - "$out" <<'EOF'
import os, statistics, sys
rates = {n: [float(x) for x in open(os.path.join(sys.argv[1], n))] for n in os.listdir(sys.argv[1]) if "-" in n}
def ratio(a, *peers):
    best = max(peers, key=lambda p: statistics.median(rates[p]))
    parts = sorted(x / y for x, y in zip(rates[a], rates[best]))
    print(f"{a} / {best}: median {statistics.median(parts):.2f}, min {parts[0]:.2f}, max {parts[-1]:.2f}")
for kind in ["moe", "dense"]:
    ratio(f"layer-{kind}-bf16-ours", f"layer-{kind}-bf16-torch", f"layer-{kind}-f32-torch")
    ratio(f"layer-{kind}-f32-ours", f"layer-{kind}-f32-torch")
for run in ["quickstart-ours", "moe-ours"]:
    ratio(run, *(f"moe-{dtype}-{way}" for dtype in ["bf16", "f32"] for way in ["eager", "compiled"]))
EOF
