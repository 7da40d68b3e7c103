"""`python -m wardround_common`: the command line, for processes that are started by this one."""

from wardround_common.cli import main

if __name__ == "__main__":
    main()
