#!/usr/bin/env bash
# Pentafold beside PyTorch; what it measures and how: bench/versus_pytorch.sh PYTHON --help
set -euo pipefail

python=${1:?usage: bench/versus_pytorch.sh PYTHON [speed|ranks|growth|gemm|quality|all] ...; PYTHON has torch (bench/peer/README.md)}
exec "$python" "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/versus_pytorch.py" "${@:2}"
