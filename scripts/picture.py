"""The command ``sasnet picture`` from a clone: ``python scripts/picture.py`` takes the same options."""

from sasnet_ns.commands.picture import main

if __name__ == "__main__":
    main()
