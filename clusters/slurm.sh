#!/usr/bin/env bash
# Ray on a Slurm allocation, one node each, and a sweep on it. From the project's folder on a shared file system:
#
#   sbatch --nodes=4 --gpus-per-node=4 --cpus-per-task=32 --time=24:00:00 clusters/slurm.sh sweeps/sam_rho.py
#
# What follows the script's name goes to `orchestrator sweep` as it is. The store has to be one that all nodes
# reach: $ORCHESTRATOR_STORE, --store, or else ./artifacts on the shared file system.
#
# Two minutes before the time limit the running tasks save themselves and the job queues again, until the sweep
# is done: nothing is computed twice. Cancel it with `scancel JOBID`; the same sbatch goes on.
#SBATCH --job-name=sweep
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=sweep-%j.txt
set -euo pipefail

: "${VENV:=.venv}" # of the project, on the shared file system
# shellcheck disable=SC1091
source "$VENV/bin/activate"
export PYTHONUNBUFFERED=1

# Other jobs may be on these nodes: a token, a port, and a folder of this job's own.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID # short, and on the node's own disk: sockets lie there
export RAY_USAGE_STATS_ENABLED=0
port=$((20000 + SLURM_JOB_ID % 10000))
head=$SLURMD_NODENAME
address=$(python -c 'import ray; print(ray.util.get_node_ip_address())')

# One step a node, which Slurm ends with the job; `ray stop` would also end the Ray of this user's other jobs.
steps=()
ray_on() { # node, flags
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --nodelist="$node" --overlap --export=ALL \
        bash -c 'mkdir -p "$RAY_TMPDIR" && exec ray start --block --disable-usage-stats \
            --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" "$@"' ray "$@" \
        >"ray-$SLURM_JOB_ID-$node.txt" 2>&1 &
    steps+=($!)
}

rm -f "ray-$SLURM_JOB_ID-"*.txt # of the time before, if the job was queued again
ray_on "$head" --head --node-ip-address="$address" --port="$port" --include-dashboard=false
until grep -qs 'Ray runtime started' "ray-$SLURM_JOB_ID-$head.txt"; do
    if ! kill -0 "${steps[0]}" 2>/dev/null; then
        echo "Ray did not start on $head: see ray-$SLURM_JOB_ID-$head.txt." >&2
        exit 2
    fi
    sleep 0.5
done
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    # A node that is slow to start is used as soon as it has joined.
    [ "$node" = "$head" ] || ray_on "$node" --address="$address:$port"
done

# The shell hears the signal only while it waits, so the sweep runs beside it.
limit=
python -m orchestrator sweep "$@" --address "$address:$port" &
sweep=$!
trap 'limit=reached; kill -TERM "$sweep" 2>/dev/null || true' USR1
trap 'kill -TERM "$sweep" 2>/dev/null || true' TERM INT
code=0
wait "$sweep" || code=$?
while kill -0 "$sweep" 2>/dev/null; do # a signal ends the first wait, not the sweep
    code=0
    wait "$sweep" || code=$?
done

for step in "${steps[@]}"; do kill -TERM "$step" 2>/dev/null || true; done
wait "${steps[@]}" 2>/dev/null || true
srun --overlap rm -rf "$RAY_TMPDIR" || true
if [ -n "$limit" ] && [ "$code" -eq 130 ]; then
    echo "The time limit is near: what ran is saved, and the job queues again."
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
