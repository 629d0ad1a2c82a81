#!/bin/bash
# Example: sbatch configs/trainer/slurm.sh configs/METHOD/RUN.yaml
# A requeued job keeps its id, hence its run directory, and goes on from its newest whole checkpoint.
# 120 s before the time is up SLURM sends SIGUSR1 to the ranks: they finish the step, write last.ckpt together and end
# with code 75, and the job goes back into the queue. scancel (SIGTERM) saves, too, and ends with 143: not requeued here.
# A job that SLURM itself preempts with PreemptMode=REQUEUE gets SIGTERM and is put back by SLURM.
#SBATCH --job-name=fewstep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue

srun python train.py fit -c "$1" -c configs/trainer/multi_node.yaml \
  --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" --resume auto
code=$?
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
