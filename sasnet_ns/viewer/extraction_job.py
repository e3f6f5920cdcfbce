"""The Extract folder: a mesh of any resolution with progress and cancel, as a layer and as a download."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

from sasnet_ns.viewer.live_surface import extract
from sasnet_ns.viewer.session import Outdated, Session
from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.geometry import Mesh

RESOLUTIONS = ("64", "128", "256", "512", "1024")
FILE_TYPES = ("ply", "obj", "stl", "off", "glb")


class ExtractionJob:
    """Controls for an extraction and the thread that runs it.

    Args:
        gui: viser's; controls are added where it stands.
        session: whose field is extracted, at the level and bands that are shown.
        name: of the file.
    """

    def __init__(self, gui: Any, session: Session, name: str) -> None:
        self._session, self._name = session, name
        self._thread: threading.Thread | None = None
        self._cancelled = False
        self.mesh: Mesh | None = None
        self._layer: Any = None
        self.resolution = gui.add_dropdown(
            "Resolution", RESOLUTIONS, "256", hint="Cells along the longest side of the box."
        )
        self.button = gui.add_button(
            "Extract", hint="Extract the surface that is shown, at its level and frequency bands."
        )
        self.cancel_button = gui.add_button("Cancel", visible=False, color="gray", hint="Stop the extraction.")
        self.bar = gui.add_progress_bar(0.0, visible=False, animated=True)
        self.text = gui.add_markdown("")
        self.layer_box = gui.add_checkbox(
            "Show this mesh", False, visible=False, hint="The extracted mesh in the scene, in blue."
        )
        self.file_type = gui.add_dropdown(
            "File type", FILE_TYPES, "ply", visible=False, hint="ply and glb keep double and single precision."
        )
        self.download_button = gui.add_button(
            "Download", visible=False, hint="Send the mesh to this browser, in the input's own units and position."
        )
        self._of_mesh = (self.layer_box, self.file_type, self.download_button)
        self.button.on_click(lambda _: self.start())
        self.cancel_button.on_click(lambda _: self.cancel())
        self.download_button.on_click(lambda event: self._download(event.client))
        self.layer_box.on_update(lambda _: self._show_layer())

    def start(self) -> None:
        """Begin, unless an extraction is going on."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._cancelled = False
        self._forget()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _forget(self) -> None:
        """Take the former mesh away: what is offered is what the text tells of."""
        self.mesh = None
        if self._layer is not None:
            self._layer.remove()
            self._layer = None
        for handle in self._of_mesh:
            handle.visible = False

    def cancel(self) -> None:
        """Stop at the next part of the work."""
        self._cancelled = True

    def wait(self) -> None:
        """Until the extraction that is going on has ended."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        resolution = int(self.resolution.value)
        expected = 36_000 + 12.0 * resolution**2
        self.button.disabled, self.cancel_button.visible, self.bar.visible = True, True, True
        self.bar.value = 0.0

        def progress(stage: str, evaluations: int) -> None:
            if self._cancelled:
                raise Outdated
            share = round(min(99.0, 100 * evaluations / expected))
            if share != self.bar.value:
                self.bar.value = share
                self.text.content = f"{stage}: {evaluations:,} evaluations"

        try:
            session = self._session
            field, step = session.frozen_field()
            # A mesh to keep is searched for as thoroughly as one from the command line.
            surface = extract(field, resolution, session.settings, progress, thorough=True)
            self.mesh = Mesh(surface.vertices.double(), surface.faces, name=self._name)
            self.text.content = f"{len(surface.faces):,} faces at {resolution} cells, step {step + 1:,}."
            self._layer = session.nodes.send_mesh(
                "/extracted", surface.vertices, surface.faces, None, visible=self.layer_box.value, color=0x5B8DB8
            )
            for handle in self._of_mesh:
                handle.visible = True
        except Outdated:
            self.text.content = "Cancelled."
        except Exception as error:  # a thread's traceback reaches the terminal alone
            self.text.content = f"No mesh: {told(error)}"
        finally:
            self.button.disabled, self.cancel_button.visible, self.bar.visible = False, False, False

    def _show_layer(self) -> None:
        if self._layer is not None:
            self._layer.visible = self.layer_box.value

    def file(self) -> tuple[str, bytes]:
        """Name and content of the mesh in the input's own units.

        Raises:
            ShapeError: nothing was extracted, or the file type cannot be written.
        """
        from sdf_tools.io.loading import save_mesh

        if self.mesh is None:
            raise ShapeError("There is no mesh yet; extract one first.")
        frame = self._session.field.frame
        faces = self.mesh.faces.flip(1) if frame.mirrors else self.mesh.faces
        world = Mesh(frame.to_world(self.mesh.vertices), faces, name=self._name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{self._name}.{self.file_type.value}"
            save_mesh(world, path)
            return path.name, path.read_bytes()

    def _download(self, client: Any) -> None:
        try:
            name, content = self.file()
        except Exception as error:
            self.text.content = f"No file: {told(error)}"
            return
        client.send_file_download(name, content)


def told(error: Exception) -> str:
    """What the panel says of an error: its own words where they are meant for users."""
    return str(error) if isinstance(error, ShapeError | MissingLibraryError) else f"{type(error).__name__}: {error}"
