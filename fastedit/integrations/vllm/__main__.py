"""vLLM's command line on a CPU: `python -m fastedit.integrations.vllm serve MODEL ...`.

Processes that vLLM starts import this module again, and so find the same.
"""

from __future__ import annotations

import sys

from fastedit.integrations.vllm.cpu import enable

enable()

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    sys.argv[0] = "vllm"
    main()
