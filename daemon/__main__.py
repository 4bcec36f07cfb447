"""``python -m daemon`` is ``zcollectiond``."""

from daemon.cli import main

# Processes of the local cluster import this module under another name; only the first one is the program.
if __name__ == "__main__":
    main()
