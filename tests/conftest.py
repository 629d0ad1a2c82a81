"""One thread for the suite: its matrices are small, and threads that wait for one another would cost minutes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read once, when a test first profiles; see flop_count.py

import torch

torch.set_num_threads(1)
