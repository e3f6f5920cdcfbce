"""The folder of a run, made when its configuration is written."""

from __future__ import annotations

from dataclasses import dataclass

from nerfstudio.engine.trainer import TrainerConfig


@dataclass
class RunFolderConfig(TrainerConfig):
    """nerfstudio's configuration of a run; one sentence where its folder cannot be made."""

    def save_config(self) -> None:
        """Make the run's folder and write config.yml.

        Raises:
            SystemExit: with one sentence, if that cannot be done.
        """
        try:
            super().save_config()
        except OSError as error:
            raise SystemExit(
                f"{self.method_name}: The folder '{self.get_base_dir()}' cannot be made or written "
                f"({error.strerror or error}); give another place with --output-dir."
            ) from None
