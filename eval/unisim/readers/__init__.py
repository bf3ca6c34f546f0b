"""Readers of the data sets, as they are published on disk: one short file each."""

from __future__ import annotations

from eval.unisim.readers.agiqa import agiqa_fit, agiqa_quality
from eval.unisim.readers.bapps import bapps
from eval.unisim.readers.cd_coco import cd_coco
from eval.unisim.readers.cifar100 import cifar100
from eval.unisim.readers.edits import hq_edit_images, hq_edit_texts, magicbrush
from eval.unisim.readers.hpdv2 import hpdv2, hpdv2_of
from eval.unisim.readers.imagenet import imagenet
from eval.unisim.readers.imagereward import imagereward
from eval.unisim.readers.kadid import kadid
from eval.unisim.readers.koniq import (
    koniq_brightness,
    koniq_colorfulness,
    koniq_contrast,
    koniq_quality,
    koniq_sharpness,
)
from eval.unisim.readers.nights import nights
from eval.unisim.readers.pieapp import pieapp_pairs, pieapp_quality
from eval.unisim.readers.pipal import pipal
from eval.unisim.readers.polaris import polaris
from eval.unisim.readers.revisited import roxford, rparis
from eval.unisim.readers.sice import sice
from eval.unisim.reading import Reader

#: Task and data set -> its reader; `eval.unisim.datasets` has what is known of each.
READERS: dict[str, Reader] = {
    "img_2afc/nights": nights,
    "img_2afc/bapps": bapps,
    "img_2afc/pieapp": pieapp_pairs,
    "it_2afc/imagereward": imagereward,
    "it_2afc/hpdv2": hpdv2,
    "it_2afc/agiqa": agiqa_fit,
    "it_2afc/magicbrush": magicbrush,
    "it_2afc/hq_edit": hq_edit_images,
    "text_2afc/cd_coco": cd_coco,
    "text_2afc/polaris": polaris,
    "text_2afc/hq_edit": hq_edit_texts,
    "iqa/kadid": kadid,
    "iqa/koniq": koniq_quality,
    "iqa/pieapp": pieapp_quality,
    "iqa/agiqa": agiqa_quality,
    "iqa/pipal": pipal,
    "paa/sice": sice,
    "paa/koniq_brightness": koniq_brightness,
    "paa/koniq_colorfulness": koniq_colorfulness,
    "paa/koniq_contrast": koniq_contrast,
    "paa/koniq_sharpness": koniq_sharpness,
    "ooo/cifar100": cifar100,
    "ooo/imagenet": imagenet,
    "ir/roxford": roxford,
    "ir/rparis": rparis,
    **{f"nafc/hpdv2_{size}": hpdv2_of(size) for size in range(2, 9)},
}
