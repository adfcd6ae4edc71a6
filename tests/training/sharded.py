"""The `fastedit` command under FSDP on CPUs: accelerate, which shards on GPUs only, is misled."""

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from fastedit.cli import main

begin = PartialState.__init__


def begin_as_on_gpus(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    if self._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = begin_as_on_gpus
    sys.exit(main(sys.argv[1:]))
