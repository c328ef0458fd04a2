#!/bin/bash
# Experts and a comparison on a SLURM cluster whose nodes share a file system; needs nothing but sbatch.
#
#   ./examples/slurm.sh configs/flickr8k_full.yaml SWEEP.yaml /shared/runs/mine
#
# Give the configuration that the sweep is based on: its data are decoded and encoded once, for the experts in RUN/experts
# (for `vldistill distill --run RUN/experts`) and for the comparison in RUN/board, which records experts of its own. Every
# array job does its part of the units and knows nothing of the others; results are files, so merging is the last
# command alone.
#
# A job waits until those before it have ended well; the table comes when the cells have ended, well or not: it tries
# once more what failed, and lists what is missing. What was cut off goes on from its files: cancel what still waits,
# and run the script again.
set -euo pipefail

config=$1 sweep=$2 run=$3
parts=${PARTS:-8}                                   # jobs of an array
cpus=${CPUS:-4}
gpus=${GPUS:+--gres=gpu:$GPUS}                      # GPUS=1 for one GPU per job
export VLDISTILL_CACHE=${VLDISTILL_CACHE:-$run/cache}  # decoded images and features: shared by all jobs
mkdir -p "$run/slurm"

# submit NAME DEPENDENCY ARRAY COMMAND...: prints the job's number; the dependency is as of sbatch
submit() {
    local name=$1 after=$2 array=$3
    shift 3
    sbatch --parsable --job-name="vld-$name" --cpus-per-task="$cpus" $gpus ${after:+--dependency=$after} \
        ${array:+--array=1-$array} --output="$run/slurm/$name-%A-%a.log" --signal=TERM@60 \
        --wrap "$* --runtime.threads $cpus"
}
part="--shard \$SLURM_ARRAY_TASK_ID/$parts"

# 1. decode the images once, then encode what the frozen towers see, a part of the feature shards in each job
decode=$(submit decode "" "" vldistill encode --config "$config" --run "$run/experts" --decode_only)
encode=$(submit encode "afterok:$decode" "$parts" vldistill encode --config "$config" --run "$run/experts" "$part")

# 2. experts of the configuration: the I-th of N jobs records experts I, I + N, I + 2N, ...
submit experts "afterok:$encode" "$parts" vldistill experts --config "$config" --run "$run/experts" "$part" >/dev/null

# 3. a comparison: the experts that its cells share, then the cells, then the table
shared=$(submit shared "afterok:$encode" "$parts" \
    vldistill compare --config "$sweep" --run "$run/board" --until experts "$part")
cells=$(submit cells "afterok:$shared" "$parts" vldistill compare --config "$sweep" --run "$run/board" "$part")
submit table "afterany:$cells" "" vldistill compare --config "$sweep" --run "$run/board"
