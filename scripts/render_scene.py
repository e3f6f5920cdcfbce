"""The command ``sasnet render-scene`` from a clone: ``python scripts/render_scene.py`` takes the same options."""

from sasnet_ns.commands.render_scene import main

if __name__ == "__main__":
    main()
