"""`python -m tests.network.command`: the command line as it is installed."""

from wardround_common.cli import main

if __name__ == "__main__":
    main()
