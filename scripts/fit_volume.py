"""The command ``sasnet fit-volume`` from a clone: ``python scripts/fit_volume.py`` takes the same options."""

from sasnet_ns.commands.fit_volume import main

if __name__ == "__main__":
    main()
