"""`python -m fastedit`, and the `fastedit` command."""

import os
import sys


def main() -> int:
    """As `fastedit.cli.main`; Ctrl-C may come while that is still being imported."""
    # Before torch is loaded, which reads them then. Threads that spin while they wait take the
    # cores from each other as soon as another process needs one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    try:
        from fastedit.cli import main

        return main()
    except KeyboardInterrupt:
        sys.stderr.write("fastedit: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
