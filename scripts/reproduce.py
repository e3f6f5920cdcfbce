"""Reproduce the paper's tables and figures.

python scripts/reproduce.py list
python scripts/reproduce.py table1 --quick
python scripts/reproduce.py table3 --medium --rows sasnet
python scripts/reproduce.py all --output outputs/reproduce --seeds 0 1 2

Every run is kept under OUTPUT/runs and never done twice: an interrupted or killed command goes on where it stopped, in
the middle of a run too, and figures that need the same runs share them. Tables also take the rows of docs/paper_rows as
done; --keep copies the records of finished runs there. Rows are in configs/, one file each, with the paper's numbers
beside the settings.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reproduction.context import Context

ROOT = Path(__file__).resolve().parents[1]

ITEMS: dict[str, tuple[str, str, str]] = {
    "table1": ("images", "image_table", "image fitting on DIV2K"),
    "table2": ("volumes", "volume_table", "volumes; also Figure 7"),
    "table3": ("shapes", "shape_table", "signed distance fields; also Figure 9"),
    "table4": ("images", "ablation", "ablation, nine rows; also Supp. Fig. 8"),
    "fig1_volume": ("volumes", "omega_row", "Figure 1's second row: a volume by SIREN at three omega_0, and by SASNet"),
    "fig3": ("image_figures", "masks", "neurons of SIREN, WIRE and SASNet; also Supp. Fig. 9, masks"),
    "fig4": ("images", "toy", "toy image: errors and masks"),
    "fig5": ("image_figures", "generalization", "pixel shift and super-resolution"),
    "fig6": ("image_figures", "scalability", "PSNR over the number of parameters"),
    "fig8": ("shape_figures", "losses", "training loss on the Armadillo"),
    "fig10": ("shape_figures", "mask_slices", "masks of a shape in slices"),
    "noise": ("noise", "noise_causes", "what noisiness measures, and what it depends on"),
    "row_costs": ("costs", "row_costs", "what a step of every row on images and shapes costs, and all its steps"),
    "supp_table1": ("costs", "parameter_counts", "parameter counts"),
    "supp_table2": ("costs", "step_costs", "step time and memory"),
    "supp_table3": ("images", "image_table", "image fitting on Kodak"),
    "supp_table4": ("images", "image_table", "medical CT slices; also Supp. Fig. 6"),
    "supp_table5": ("images", "image_table", "FFHQ faces; also Supp. Fig. 7"),
    "theorem1": ("theory", "theorem", "Theorem 1: a network beside its Bessel expansion"),
    "supp_fig1": ("image_figures", "spectra", "spectra before and after training"),
    "supp_fig2": ("shape_figures", "time_to_loss", "training loss on the Armadillo over processor time"),
    "supp_fig3": ("image_figures", "omega", "influence of omega_0; also Figure 1's super-resolution"),
    "supp_fig4": ("shape_figures", "error_maps", "errors of a shape without masks and with them"),
    "supp_fig5": ("shape_figures", "mask_volume", "the highest band's mask of a shape as a volume, from four sides"),
    "supp_sec4": ("costs", "shape_step_costs", "step time and memory on signed distances"),
    "time_to_accuracy": ("image_figures", "time_to_accuracy", "accuracy on an image over wall-clock time"),
    "tiger": ("images", "tiger", "the authors' later protocol, masks on and off"),
}
"""Name to module, function and what it is."""

_NAMED = ("table1", "supp_table3", "supp_table4", "supp_table5")


def main() -> None:
    """Parse the command line and do the items."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("item", choices=["list", "all", *ITEMS], help="one item, all of them, or their list")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="a small version of the same experiment, seconds a run")
    sizes.add_argument(
        "--medium", action="store_true", help="the paper's steps and rates on smaller signals, minutes a run"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/reproduce"), help="folder of results and runs")
    parser.add_argument("--data", type=Path, default=None, help="folder of data sets (images/, volumes/, meshes/)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of weights and batches")
    parser.add_argument("--rows", nargs="+", default=[], help="only these rows of the item")
    parser.add_argument("--limit", type=_count, default=None, help="only so many images, volumes or shapes")
    parser.add_argument("--workers", type=_count, default=None, help="runs at a time; default one a core, one on a GPU")
    parser.add_argument("--device", default=None, help="cpu or cuda; CUDA where there is one if left out")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=60.0, help="between savings of a run's middle; 0 for every step"
    )
    parser.add_argument("--keep", action="store_true", help="copy the records of finished runs to docs/paper_rows")
    parser.add_argument(
        "--no-fit",
        action="store_true",
        help="fit nothing: tables of the rows that are there; items that time steps still take some",
    )
    arguments = parser.parse_args()
    if arguments.item == "list":
        for name, (_, _, what) in ITEMS.items():
            print(f"{name:12} {what}")
        return
    sys.path.insert(0, str(ROOT / "scripts"))
    failed = run(arguments)
    if failed:
        sys.exit("\n".join(failed))


def run(arguments: argparse.Namespace) -> list[str]:
    """Do the items; returns a sentence for each that could not be done."""
    from reproduction.context import Context
    from reproduction.runs import available_cores

    from sasnet_ns.training.devices import chosen_device
    from sdf_tools.errors import file_trouble

    try:
        device = str(chosen_device(arguments.device))
    except ValueError as error:
        return [f"reproduce: {error}"]
    workers = arguments.workers or (1 if device.startswith("cuda") else available_cores())
    shared = Path(os.environ.get("SASNET_SHARED_DATA", ROOT.parent / "shared" / "data"))
    failed = []
    names = list(ITEMS) if arguments.item == "all" else [arguments.item]
    for name in names:
        context = Context(
            output=arguments.output,
            data=(arguments.data or shared).resolve(),
            size="quick" if arguments.quick else "medium" if arguments.medium else "full",
            item=name,
            seeds=tuple(arguments.seeds),
            rows=tuple(arguments.rows),
            limit=arguments.limit,
            workers=workers,
            device=device,
            checkpoint_seconds=arguments.checkpoint_seconds,
            no_fit=arguments.no_fit,
            keep=arguments.keep,
        )
        try:
            _function(name)(context)
        except (ValueError, ImportError) as error:
            failed.append(f"reproduce {name}: {error}")
        except OSError as error:
            failed.append(f"reproduce {name}: {file_trouble(error)}")
        except KeyboardInterrupt:
            return [*failed, f"reproduce {name}: interrupted; what was done is kept, the same command goes on"]
        if context.failed:
            reasons = "; ".join(dict.fromkeys(context.failed))
            failed.append(f"reproduce {name}: {len(context.failed)} of the runs could not be done: {reasons}")
        for path in context.done:
            print(path)
    return failed


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _function(name: str) -> Callable[[Context], None]:
    module, function, _ = ITEMS[name]
    found = getattr(import_module(f"reproduction.{module}"), function)
    return (lambda context: found(context, name)) if name in _NAMED else found


if __name__ == "__main__":
    main()
