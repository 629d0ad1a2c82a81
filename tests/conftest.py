"""One thread for the suite: its matrices are small, and threads that wait for one another would cost minutes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

import torch

torch.set_num_threads(1)
