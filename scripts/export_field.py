"""The command ``sasnet export`` from a clone: ``python scripts/export_field.py`` takes the same options."""

from sasnet_ns.commands.export import main

if __name__ == "__main__":
    main()
