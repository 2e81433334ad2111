#!/usr/bin/env bash
# A survey as a SLURM job array, counted from 0: every element does its share of the same run.
#
#   sbatch --array=0-31 examples/slurm.sh --shards 'imagenet/train-{0000..1280}.tar' \
#       --layers _blocks.15,output --per-class 50 --out /shared/run
#
# Shares that died are started again one by one with the number of all of them:
#
#   SHARES=32 sbatch --export=ALL --array=5,17 examples/slurm.sh …the same arguments…
#
# SLURM ends a job with SIGTERM; the run stops between two lines of work, exits with 130, and the same
# command continues. `jvpsvd run --status /shared/run` tells how far all of them are, and
# `jvpsvd verify /shared/run` whether anything is missing at the end.
#SBATCH --job-name=jvpsvd
#SBATCH --array=0-31
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=jvpsvd-%A_%a.log
set -euo pipefail

# jvpsvd takes as many threads as the task has cores, and plans for half of the job's memory.
# exec: the signal is for jvpsvd, not for this shell.
exec jvpsvd run "$@" --share "$SLURM_ARRAY_TASK_ID/${SHARES:-$SLURM_ARRAY_TASK_COUNT}"
