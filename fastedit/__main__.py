"""`python -m fastedit`, and the `fastedit` command."""

import sys


def main() -> int:
    """As `fastedit.cli.main`; Ctrl-C may come while that is still being imported."""
    try:
        from fastedit.cli import main

        return main()
    except KeyboardInterrupt:
        sys.stderr.write("fastedit: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
