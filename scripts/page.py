"""The command ``sasnet page`` from a clone: ``python scripts/page.py`` takes the same options."""

from sasnet_ns.commands.page import main

if __name__ == "__main__":
    main()
