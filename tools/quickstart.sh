#!/usr/bin/env bash
# From nothing to a pretrained csmoe-tiny on the procedural archive: installs what is missing, builds, trains for about
# four minutes, and shows what came out. Usage: tools/quickstart.sh [RUN]
set -eu
cd "$(dirname "$0")/.."
run=${1:-quickstart}
. tools/setup.sh
cargo build --release
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
csmoe() { ${CSMOE_RUNNER:-} "$target/release/csmoe" "$@"; }

archive=synth:2000
batch=16
rm -rf "$run"
# How fast is this machine? Six steps tell how many fit into three and a half minutes.
csmoe pretrain --data $archive --preset csmoe-tiny --out "$run/speed" --steps 6 --batch $batch --validate-every 0 \
    --checkpoint-every 0 >/dev/null
speed=$(tail -n 1 "$run/speed/metrics.jsonl" | sed 's/.*"pairs_per_s":\([0-9]*\).*/\1/')
steps=$((speed * 210 / batch))
if [ $steps -lt 40 ]; then steps=40; elif [ $steps -gt 2000 ]; then steps=2000; fi
echo "quickstart: $speed pairs/s here: $steps steps of $batch pairs"
csmoe pretrain --data $archive --preset csmoe-tiny --out "$run/model" --steps "$steps" --batch $batch --lr 1e-3 \
    --validate-every 0
csmoe reconstruct --checkpoint "$run/model" --data synth:6:7 --out "$run/reconstructions.png"
csmoe neighbours --checkpoint "$run/model" --data synth:300:7 --sensor s1 --out "$run/neighbours.png"
csmoe readout --checkpoint "$run/model" --data synth:400:7 --sensor s1
echo
echo "weights               $run/model/model.safetensors"
echo "metrics               $run/model/metrics.jsonl (TensorBoard: --logdir $run/model)"
echo "reconstructions       $run/reconstructions.png: input, masked, both sensors from both sensors"
echo "nearest embeddings    $run/neighbours.png"
