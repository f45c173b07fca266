"""A rank of a Trainer under torchrun. Arguments: folder, policy. It writes its rates and its number of requests."""

import json
import os
import sys
from pathlib import Path

import torch

from remotelr.testing import InMemoryService
from remotelr.transformers import RemoteLR
from support.transformers.jobs import SETTINGS, Evaluations, Rates, arguments, trainer

if __name__ == "__main__":
    folder, policy = Path(sys.argv[1]), sys.argv[2]
    service, rates = InMemoryService(), Rates()
    # Rank 1 has a service of its own, which must not get a request.
    remote = RemoteLR(service.url, "ranks", transport=service, verbose=False, **SETTINGS[policy])
    # 10 steps an epoch, as each of the two ranks has half of the rows.
    trainer(arguments(folder, num_train_epochs=2), [Evaluations([1.0] * 4), remote, rates]).train()
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps([rates.used, len(service.requests)]))
    # A process that ends with its group may be aborted by the group's threads.
    torch.distributed.destroy_process_group()
