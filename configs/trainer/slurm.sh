#!/bin/bash
# Example: sbatch configs/trainer/slurm.sh configs/METHOD/RUN.yaml
# A requeued job keeps its id, hence its run directory, and goes on from its newest whole checkpoint.
#SBATCH --job-name=fewstep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue

srun python train.py fit -c "$1" -c configs/trainer/multi_node.yaml \
  --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" --resume auto
