"""A mistake that all ranks meet is said by one of them."""

import os
from datetime import timedelta

from torch import distributed
from torch.distributed import DistStoreError, distributed_c10d

PATIENCE = timedelta(seconds=5)  # for the first rank, whose reading of the data may take longer


def rank_0_says(line: str, rank: int) -> bool:
    """Whether rank 0 says the same, and this other rank may be silent.

    In the store of the process group, which needs no collective. Before there is a group, what the first process of a
    machine meets is what the others of it meet: they read the same command and the same files.
    """
    if not distributed.is_initialized():
        return rank > 0 and int(os.environ.get("LOCAL_RANK", 0)) > 0
    key = f"said/{line}"
    store = distributed_c10d._get_default_store()
    try:
        if rank == 0:
            store.set(key, "")
            return False
        store.wait([key], PATIENCE)
    except DistStoreError:
        return False  # nobody has said it
    except RuntimeError:  # the connection to the store: rank 0, which keeps it, is gone, not without a word
        return rank > 0
    return True
