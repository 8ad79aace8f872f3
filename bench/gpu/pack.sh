#!/usr/bin/env bash
# Packs the program, bench/gpu/run.sh and its PyTorch peers into gpu-pack/ at the root of the repository, for a machine that has
# a GPU but neither cargo nor a network.
#
#   bench/gpu/pack.sh [--cache DIR] [PROGRAM] [FILE|DIR…]
#
# PROGRAM is target/release/swav unless it is given; it is stripped. What else is named goes along under its own path, seen from
# the root. --cache DIR adds what an earlier run has left in DIR: the parts of CubeCL's cache. There:
#
#   . gpu-pack/unpack.sh && bench/gpu/run.sh --device cuda
set -euo pipefail

readonly LIMIT_MIB=62
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=
if [ "${1:-}" = --cache ]; then
  [ $# -ge 2 ] || { echo "--cache needs a folder" >&2; exit 2; }
  cache=$(realpath "$2")
  shift 2
fi
program=$(realpath "${1:-$root/target/release/swav}")
[ $# -eq 0 ] || shift
[ -x "$program" ] || { echo "there is no program $program: build it with the feature cuda or wgpu" >&2; exit 2; }

pack=$root/gpu-pack
rm -rf "$pack"
mkdir -p "$pack/in/bench/gpu" "$pack/in/bench/peers"
strip -o "$pack/in/swav" "$program"
cd "$root"
cp bench/gpu/run.sh "$pack/in/bench/gpu/"
cp bench/peers/{step,sinkhorn,embed}_torch.py "$pack/in/bench/peers/"
for item; do
  mkdir -p "$pack/in/$(dirname "$item")"
  cp -rL "$item" "$pack/in/$item"
done
if [ -n "$cache" ]; then
  mkdir "$pack/in/cache"
  cp "$cache"/cubecl-cache.tar.gz.* "$pack/in/cache/"
fi
cp bench/gpu/unpack.sh "$pack/"
tar -C "$pack/in" -c . | xz -T0 -6 >"$pack/pack.tar.xz"
rm -r "$pack/in"
ls -l "$pack/pack.tar.xz"
if [ "$(stat -c %s "$pack/pack.tar.xz")" -gt $((LIMIT_MIB << 20)) ]; then
  echo "gpu-pack/pack.tar.xz is larger than $LIMIT_MIB MiB: build with fewer features, or leave files out" >&2
  exit 1
fi
