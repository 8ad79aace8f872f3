#!/usr/bin/env bash
# What is worth knowing of a GPU, in one go: that the program computes right on it, that it trains, and how fast it is beside
# PyTorch on the same card. Needs the program and bash; for the figures of PyTorch a python3 with torch and torchvision; no cargo
# and no network.
#
#   bench/gpu/run.sh [--device cuda] [--program PROGRAM] [--out DIR] [--cache DIR] [--level LEVEL] [--total SECONDS] [--quick]
#
#   --device     cuda, cuda:1, wgpu, wgpu:1 or cpu; cuda by default
#   --program    the program; by default swav beside bench/, as bench/gpu/pack.sh packs it, or target/release/swav
#   --out        where results go; by default $OUT, or gpu-results
#   --cache      a folder with the parts of CubeCL's cache that an earlier run has left; by default cache beside bench/
#   --level      how many kernels are tried for an operation: minimal (by default), balanced, extensive or full
#   --total      seconds for everything, 420 by default
#   --quick      small sizes, to see whether the script itself works: --quick --device cpu needs no GPU
#
# Steps are taken in the order of their worth. Each has a limit of its own, and none the others' time; a step that fails does not
# stop the next. In the folder of results:
#
#   results.jsonl          of each step its command, exit code and seconds, and what it has printed; 124 and 137: out of time
#   log                    the same to read, with all messages
#   nvidia-smi.csv         memory, load and clocks of the card, each second
#   autotune.log.gz        the kernels that were found fastest
#   profile.txt            kernel by kernel, what the last step of a ResNet-50 in bf16 took: a table for each phase
#   cubecl-cache.tar.gz.*  tuning results and compiled kernels, in parts of 15 MiB
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
device=cuda
program=
out=${OUT:-gpu-results}
cache=$root/cache
level=minimal
total=420
quick=
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1; shift; continue ;;
    --device | --program | --out | --cache | --level | --total) ;;
    *) echo "run.sh: unknown argument $1; its first lines say what there is" >&2; exit 2 ;;
  esac
  [ $# -ge 2 ] || { echo "run.sh: $1 needs a value" >&2; exit 2; }
  case $1 in
    --device) device=$2 ;;
    --program) program=$2 ;;
    --out) out=$2 ;;
    --cache) cache=$2 ;;
    --level) level=$2 ;;
    --total) total=$2 ;;
  esac
  shift 2
done
if [ -z "$program" ]; then
  program=$root/swav
  [ -x "$program" ] || program=$root/target/release/swav
fi
[ -x "$program" ] || { echo "run.sh: there is no program $program" >&2; exit 2; }
program=$(realpath "$program")
mkdir -p "$out"
out=$(realpath "$out")
log=$out/log
# Under the names of PyTorch every GPU is one of CUDA's.
case $device in
  cpu | cuda | cuda:*) of_torch=$device ;;
  *) of_torch=cuda ;;
esac

# What --quick trains in, and the form of PyTorch's beside it: in software there is no bf16.
small=(f32 f32)
[ "$device" != cpu ] || small=(bf16 amp)

# Seconds that are kept for packing the cache, and that a step needs at least to be begun.
readonly RESERVE=15 LEAST=10
work=$(mktemp -d)
# Where steps are taken.
place=$work
sampler=

# CubeCL reads this in the folder that it is started in, or in one above it. There is no variable for the folder of its cache.
# Tuning results do not say of which card they are: each card has a file of its own.
card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 | tr -cs 'A-Za-z0-9.\n-' _)
mkdir "$work/cubecl"
cat >"$work/cubecl.toml" <<TOML
[environment]
name = "${card:-default}"
path = { directory = '$work/cubecl' }

[environment.records]
level = "off"

[compilation]
cache = true

[autotune.logger]
level = "minimal"
file = '$work/autotune.log'
TOML
# The same, for a run whose kernels are timed one by one.
mkdir "$work/profiled"
{ cat "$work/cubecl.toml"; printf "\n[profiling.logger]\nlevel = 'basic'\nfile = '%s'\n" "$work/profile.log"; } >"$work/profiled/cubecl.toml"
export CUBECL_AUTOTUNE_LEVEL=$level RUST_BACKTRACE=1 PYTHONUNBUFFERED=1

say() {
  printf '%4d s  %s\n' "$SECONDS" "$*" | tee -a "$log"
}

# Appends a step to results.jsonl: record NAME CODE SECONDS FILE-WITH-WHAT-IT-PRINTED COMMAND…
record() {
  python3 - "$@" >>"$out/results.jsonl" <<'PYTHON' || say "results.jsonl: $1 is missing; see the log"
import json
import sys

name, code, seconds, path, *command = sys.argv[1:]
text = open(path, errors="replace").read()


def printed():
    for parts in ([text], text.splitlines()):
        try:
            return [json.loads(part) for part in parts]
        except ValueError:
            pass
    return text.splitlines()


print(json.dumps({"step": name, "code": int(code), "seconds": float(seconds), "command": command, "printed": printed()}))
PYTHON
}

# step NAME LIMIT COMMAND…
step() {
  local name=$1 limit=$2 left=$((total - RESERVE - SECONDS)) code begun ended
  shift 2
  : >"$work/printed"
  if [ "$left" -lt "$LEAST" ]; then
    say "$name: left out, there is no time left"
    record "$name" -1 0 "$work/printed" "$@"
    return
  fi
  [ "$limit" -le "$left" ] || limit=$left
  say "$name, at most $limit s: $*"
  begun=$(date +%s.%N)
  (cd "$place" && exec timeout --kill-after=5 "$limit" "$@") >"$work/printed" 2>>"$log" </dev/null
  code=$?
  ended=$(date +%s.%N)
  cat "$work/printed" | tee -a "$log"
  [ "$code" -eq 0 ] || tail -n 4 "$log"
  say "$name: exit code $code"
  record "$name" "$code" "$(awk "BEGIN { printf \"%.3f\", $ended - $begun }")" "$work/printed" "$@"
}

swav() {
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" "$program" "$@"
}

peer() {
  local name=$1 limit=$2 script=$3
  shift 3
  step "$name" "$limit" python3 "$root/bench/peers/$script" --device "$of_torch" "$@"
}

# A step of training beside PyTorch's in the same precision: train NAME LIMIT WARM-UP OPTIMIZER ARCH CROPS BATCH PRECISION FORM
train() {
  local case=(--arch "$5" --crops "$6" --batch "$7")
  swav "step-$1-$8" "$2" bench step --device "$device" --warm-up "$3" "${case[@]}" --precision "$8"
  peer "step-$1-$9-torch" 60 step_torch.py --optimizer "$4" "${case[@]}" --precision "$9"
}

# The same again, kernel by kernel, each waited for: profile ARCH CROPS BATCH PRECISION
profile() {
  place=$work/profiled
  swav profile 60 bench step --device "$device" --warm-up 20 --arch "$1" --crops "$2" --batch "$3" --precision "$4"
  place=$work
  [ -s "$work/profile.log" ] || return 0
  python3 - "$work/profile.log" <<'PYTHON' >"$out/profile.txt" || say "profile.txt could not be made of CubeCL's log"
import sys

# Between the launches there is a table each time that the device was waited for: at the end of a phase.
tables = []
for line in open(sys.argv[1], errors="replace"):
    fields = [field.strip() for field in line.strip().strip("|").rsplit("|", 3)]
    if fields[0] == "Name":
        tables.append([])
    elif tables and len(fields) == 4 and fields[3].endswith("%"):
        tables[-1].append(fields)
for phase, table in zip(("forward", "codes", "loss", "backward", "update"), tables[-5:]):
    print(f"{phase}\n{'':>8} {'launches':>9} {'':>14}")
    for name, duration, launches, share in table:
        print(f"{share:>8} {launches:>9} {duration:>14}  {name[:160]}")
PYTHON
}

finish() {
  trap - EXIT
  [ -z "$sampler" ] || kill "$sampler" 2>/dev/null
  [ ! -s "$work/autotune.log" ] || gzip -c "$work/autotune.log" >"$out/autotune.log.gz"
  if [ -n "$(ls -A "$work/cubecl")" ]; then
    rm -f "$out"/cubecl-cache.tar.gz.*
    # What its processes share of a database is of no use to others.
    tar -C "$work" --exclude='*-tshm' -cz cubecl | split -b 15M -d - "$out/cubecl-cache.tar.gz."
  fi
  say "done: $(du -sh "$out" | cut -f 1) in $out"
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM INT

: >"$log"
: >"$out/results.jsonl"
say "$program on $device, autotuning $level, $(date -u +%FT%TZ), $(nproc) processors"
if ls "$cache"/cubecl-cache.tar.gz.* >/dev/null 2>&1; then
  cat "$cache"/cubecl-cache.tar.gz.* | tar -C "$work" -xz && say "CubeCL's cache of $cache: $(du -sh "$work/cubecl" | cut -f 1)"
fi
if command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=timestamp,memory.used,utilization.gpu,clocks.sm,clocks.mem,power.draw,temperature.gpu \
    --format=csv --loop=1 >"$out/nvidia-smi.csv" 2>&1 &
  sampler=$!
fi

if [ -n "$sampler" ]; then
  step card 20 nvidia-smi
  step card-query 20 nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap,clocks.max.sm,power.limit --format=csv
fi
swav devices 30 devices --json
# Not as JSON, which comes at the end: what has been found is kept if the time is over.
swav check 90 devices --check --device "$device"
if [ -z "$quick" ]; then
  # The first step of a process with nothing tuned takes about two minutes.
  train resnet50 170 140 larc resnet50 2x224+6x96 64 bf16 amp
  profile resnet50 2x224+6x96 64 bf16
  swav quickstart 70 quickstart --device "$device" --plain --json --out "$work/quickstart" --set train.epochs=2
  swav sinkhorn 40 bench sinkhorn --device "$device" --sizes 4096x3000,16384x3000
  peer sinkhorn-torch 40 sinkhorn_torch.py 4096,3000 16384,3000
  train resnet18 70 40 adam resnet18 2x32+4x20 256 bf16 amp
  train resnet18 60 40 adam resnet18 2x32+4x20 256 f32 tf32
  # Two thousand JPEGs of noise, smoothed to the size of a photograph's file, and weights that nobody has trained.
  step embed-input 40 python3 -c '
import io, tarfile
import numpy as np
import torch, torchvision
from PIL import Image
draw = np.random.default_rng(0)
with tarfile.open("images.tar", "w") as archive:
    for index in range(2000):
        small = Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        bytes = io.BytesIO()
        small.resize((256, 256), Image.BICUBIC).save(bytes, "JPEG", quality=90)
        member = tarfile.TarInfo(f"noise/{index:05}.jpg")
        member.size = bytes.tell()
        bytes.seek(0)
        archive.addfile(member, bytes)
torch.save(torchvision.models.resnet50().state_dict(), "resnet50.pth")
'
  # Twice: kernels are tuned in the first run, and found in the cache in the second.
  for run in first second; do
    swav "embed-$run" 60 embed resnet50.pth --data images.tar --size 224 --device "$device" --out features.npy --json
  done
  peer embed-torch 40 embed_torch.py --arch resnet50 --size 224 images.tar features-torch.npy
else
  swav quickstart 90 quickstart --device "$device" --plain --json --out "$work/quickstart" --set train.epochs=1 \
    --set data.path=builtin:quickstart/test
  swav sinkhorn 40 bench sinkhorn --device "$device" --sizes 256x300
  peer sinkhorn-torch 40 sinkhorn_torch.py 256,300
  train slim 90 30 adam cifar10-slim 2x16 8 "${small[@]}"
  profile cifar10-slim 2x16 8 "${small[0]}"
  swav embed 60 embed "$work/quickstart" --data builtin:quickstart/test --device "$device" --out features.npy --json
fi
