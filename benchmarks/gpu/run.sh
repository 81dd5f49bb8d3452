#!/bin/bash
# Runs the GPU check on a rented machine that has torch and nothing of ours: the wheels that it lacks
# are carried along. In the root of the checkout: bash benchmarks/gpu/run.sh [--cpu] [--only ...]
# Results: $OUT/result.json, $OUT/log.txt, $OUT/smi.csv (./gpu_check_out where OUT is not set).
set -u
here=$(cd "$(dirname "$0")" && pwd)
export OUT=${OUT:-$PWD/gpu_check_out} SITE=${SITE:-/tmp/site} PYTHON=${PYTHON:-python3}
wheels=${WHEELS:-$here/wheels}
mkdir -p "$OUT"
if [ ! -d "$SITE/torchcodec" ]; then
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$SITE" "$wheels"/*.whl || exit 1
fi
# FFmpeg's shared libraries are those of the wheel of PyAV, under the names torchcodec asks for. The
# links stand beside them: they find each other by their own directory.
for library in avutil avcodec avformat avdevice avfilter swscale swresample; do
    file=$(basename "$SITE"/av.libs/lib$library-*.so.*)
    major=$(sed -E 's/.*\.so\.([0-9]+)\..*/\1/' <<<"$file")
    ln -sf "$file" "$SITE/av.libs/lib$library.so.$major"
done
export LD_LIBRARY_PATH=$SITE/av.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# NVDEC's library comes with the driver, which may lie where the loader does not look.
if ! ldconfig -p | grep -q libnvcuvid.so.1; then
    found=$(find /usr/local/nvidia /usr/lib /usr/lib64 -name 'libnvcuvid.so.1' 2>/dev/null | head -1)
    [ -n "$found" ] && export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$(dirname "$found")
    echo "libnvcuvid.so.1: ${found:-not on this machine, NVDEC cannot work}"
fi
export PYTHONPATH=$SITE:$PWD:$PWD/builder HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
sampler=
if command -v nvidia-smi >/dev/null; then
    nvidia-smi -L
    nvidia-smi --query-gpu=driver_version,memory.total,clocks.max.sm,clocks.max.video --format=csv
    query=timestamp,utilization.gpu,utilization.memory,utilization.decoder,memory.used,clocks.sm,power.draw
    nvidia-smi --query-gpu=$query --format=csv -lms 500 >"$OUT/smi.csv" 2>&1 &
    sampler=$!
fi
"$PYTHON" -m benchmarks.gpu.check --out "$OUT" "$@" 2>&1 | tee "$OUT/log.txt"
code=${PIPESTATUS[0]}
[ -n "$sampler" ] && kill "$sampler"
exit "$code"
