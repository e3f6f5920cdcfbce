"""The command ``sasnet repeat`` from a clone: ``python scripts/repeat.py`` takes the same options."""

from sasnet_ns.commands.repeat import main

if __name__ == "__main__":
    main()
