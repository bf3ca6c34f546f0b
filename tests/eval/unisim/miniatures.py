"""Which miniature each data set of UniSim-Bench has."""

from collections.abc import Callable
from pathlib import Path

from tests.eval.unisim import worlds, worlds_ooo_ir

#: Task and data set -> what makes its miniature below a root.
WORLDS: dict[str, Callable[[Path], None]] = {
    "img_2afc/nights": worlds.nights,
    "img_2afc/bapps": worlds.bapps,
    "img_2afc/pieapp": worlds.pieapp,
    "it_2afc/imagereward": worlds.imagereward,
    "it_2afc/hpdv2": worlds.hpdv2,
    "it_2afc/agiqa": worlds.agiqa,
    "it_2afc/magicbrush": worlds.magicbrush,
    "it_2afc/hq_edit": worlds.hq_edit,
    "text_2afc/cd_coco": worlds.cd_coco,
    "text_2afc/polaris": worlds.polaris,
    "text_2afc/hq_edit": worlds.hq_edit,
    "iqa/kadid": worlds.kadid,
    "iqa/koniq": worlds.koniq,
    "iqa/pieapp": worlds.pieapp,
    "iqa/agiqa": worlds.agiqa,
    "iqa/pipal": worlds.pipal,
    "paa/sice": worlds.sice,
    **{f"paa/koniq_{name}": worlds.koniq for name in ("brightness", "colorfulness", "contrast", "sharpness")},
    "ooo/cifar100": worlds_ooo_ir.cifar100,
    "ooo/imagenet": worlds_ooo_ir.imagenet,
    "ir/roxford": lambda root: worlds_ooo_ir.revisited(root, "roxford5k"),
    "ir/rparis": lambda root: worlds_ooo_ir.revisited(root, "rparis6k"),
    **{f"nafc/hpdv2_{size}": worlds.hpdv2 for size in range(2, 9)},
}
