#!/bin/bash
# Experts and a comparison on a SLURM cluster whose nodes share a file system; needs nothing but sbatch.
#
#   ./examples/slurm.sh configs/flickr8k_full.yaml SWEEP.yaml /shared/runs/mine
#
# The script submits job arrays that wait for each other. Every array job does its part of the units and knows nothing
# of the others; results are files, so merging is the last command alone, which finds everything done and writes the
# table. A job that was cut off is submitted again as it was: it goes on from its files.
set -euo pipefail

config=$1 sweep=$2 run=$3
parts=${PARTS:-8}                                   # jobs of an array
cpus=${CPUS:-4}
gpus=${GPUS:+--gres=gpu:$GPUS}                      # GPUS=1 for one GPU per job
export VLDISTILL_CACHE=${VLDISTILL_CACHE:-$run/cache}  # decoded images and features: shared by all jobs
mkdir -p "$run/slurm"

# submit NAME DEPENDENCY ARRAY COMMAND...: prints the job's number
submit() {
    local name=$1 after=$2 array=$3
    shift 3
    sbatch --parsable --job-name="vld-$name" --cpus-per-task="$cpus" $gpus ${after:+--dependency=afterok:$after} \
        ${array:+--array=1-$array} --output="$run/slurm/$name-%A-%a.log" --signal=TERM@60 \
        --wrap "$* --runtime.threads $cpus"
}
part="--shard \$SLURM_ARRAY_TASK_ID/$parts"

# 1. decode the images once, then encode what the frozen towers see, a part of the feature shards in each job
decode=$(submit decode "" "" vldistill encode --config "$config" --run "$run/experts" --decode_only)
encode=$(submit encode "$decode" "$parts" vldistill encode --config "$config" --run "$run/experts" "$part")

# 2. experts: the I-th of N jobs records experts I, I + N, I + 2N, ...
submit experts "$encode" "$parts" vldistill experts --config "$config" --run "$run/experts" "$part" >/dev/null

# 3. a comparison: the experts that its cells share, then the cells, then the table
shared=$(submit shared "" "$parts" vldistill compare --config "$sweep" --run "$run/board" --until experts "$part")
cells=$(submit cells "$shared" "$parts" vldistill compare --config "$sweep" --run "$run/board" "$part")
submit table "$cells" "" vldistill compare --config "$sweep" --run "$run/board"
