"""``python -m sasnet_ns.commands``: the command ``sasnet`` without its launcher."""

from sasnet_ns.commands.cli import main

if __name__ == "__main__":
    main()
