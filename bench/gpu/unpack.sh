# Sourced where gpu-pack/ lies:  . gpu-pack/unpack.sh
#
# Unpacks what bench/gpu/pack.sh has packed into $GPU_DIR (/tmp/gpu), goes there, and sets CUDA_PATH and LD_LIBRARY_PATH where
# they are not set: the program loads libcuda and libnvrtc when it runs, and NVRTC reads $CUDA_PATH/include.
gpu_pack=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
gpu_dir=${GPU_DIR:-/tmp/gpu}
mkdir -p "$gpu_dir"
tar -xJf "$gpu_pack/pack.tar.xz" -C "$gpu_dir" 2>/dev/null ||
  python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$gpu_pack/pack.tar.xz" "$gpu_dir"
cd "$gpu_dir" || return 1

# A toolkit, or what the packages of PyPI have brought along with PyTorch.
gpu_packages=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib") + "/nvidia")' 2>/dev/null)
if [ -z "${CUDA_PATH:-}" ]; then
  nvcc=$(command -v nvcc || ls /usr/local/cuda*/bin/nvcc 2>/dev/null | tail -n 1)
  if [ -n "$nvcc" ]; then
    CUDA_PATH=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
  elif [ -d "$gpu_packages/cu13" ]; then
    CUDA_PATH=$gpu_packages/cu13
  fi
  export CUDA_PATH=${CUDA_PATH:-}
  [ -n "$CUDA_PATH" ] || unset CUDA_PATH
fi
for folder in ${CUDA_PATH:+"$CUDA_PATH/lib64" "$CUDA_PATH"/targets/*/lib} /usr/local/nvidia/lib64 "$gpu_packages"/*/lib; do
  if [ -d "$folder" ]; then
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
  fi
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
echo "unpacked into $gpu_dir; CUDA_PATH=${CUDA_PATH:-}, LD_LIBRARY_PATH=$LD_LIBRARY_PATH"
unset gpu_pack gpu_packages gpu_dir nvcc folder
