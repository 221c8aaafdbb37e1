#!/bin/bash
# Run workers of one study as a SLURM job array:
#
#   export HPO_DATABASE_URL=postgresql://scenetune@db.example.org/scenetune HPO_HOME=/shared/scenetune
#   sbatch --array=1-16 deploy/slurm.sh quickstart
#
# The password is in ~/.pgpass (mode 600), which all nodes see. Before the time limit, at preemption and at scancel a
# worker returns its trial to the queue; after the time limit its task is requeued until the study is finished.
#
#SBATCH --job-name=hpo-worker
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --output=hpo-worker-%A-%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# USR1 and not TERM for the time limit: scancel sends TERM, and a cancelled worker must not be requeued.
set -u
study=${1:?usage: sbatch --array=1-N deploy/slurm.sh NAME}

# The worker runs in the background: bash handles a signal only between commands and in `wait`. The traps are set before
# the worker starts.
time_is_up=no signals=0 worker=
end_worker() {
    signals=1
    [ -z "$worker" ] || kill -TERM "$worker" 2>/dev/null
}
trap end_worker TERM
trap 'time_is_up=yes; end_worker' USR1

hpo worker "$study" --wait --threads "${SLURM_CPUS_PER_TASK:-1}" &
worker=$!
# A signal between the two lines above was not passed on to the worker.
[ "$signals" = 0 ] || end_worker
while :; do
    signals=0
    wait "$worker"
    code=$?
    # A signal interrupts `wait` but does not end the worker.
    [ "$signals" = 0 ] && break
done

# 130: the trial is back in the queue and the study is not finished. 143: the worker had not begun.
if [ "$time_is_up" = yes ] && { [ "$code" = 130 ] || [ "$code" = 143 ]; }; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
