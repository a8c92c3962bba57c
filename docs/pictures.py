"""An mkdocs hook that draws the pictures of block maps, from plans that maskc compiles then."""

import io

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from maskc import Causal, ChunkedCausal, Documents, Local, Mask, Prefix, compile_mask
from maskc.blockmap import block_shares

mpl.use("agg")

DOCUMENTS = Documents([0, 90, 270, 300, 512])
PICTURES: dict[str, Mask] = {
    "causal": Causal(),
    "window": Local(left=99, right=0),
    "chunked": ChunkedCausal(128),
    "documents": Causal() & DOCUMENTS,
    "prefix": Causal() | Prefix(150),
    "sinks": Causal() & (Local(left=99) | Prefix(8)),
}
EMPTY, PARTIAL, FULL = (0.93, 0.93, 0.95), (1.0, 0.65, 0.2), (0.16, 0.35, 0.66)


def draw(mask: Mask) -> bytes:
    """The forward block map of a mask of 512 x 512 in blocks of 32, as SVG."""
    plan = compile_mask(mask, q_len=512, block_q=32, block_kv=32)
    full, partial = block_shares(plan)
    color = np.empty((*full.shape, 3))
    color[:] = EMPTY
    color[partial > 0] = PARTIAL
    color[full > 0] = FULL
    figure, axes = plt.subplots(figsize=(3, 3), layout="tight")
    axes.imshow(color)
    axes.set(xticks=[], yticks=[], xlabel="kv blocks", ylabel="q blocks")
    axes.set_xticks(np.arange(-0.5, full.shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, full.shape[0]), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    return out.getvalue()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures to the site as `pictures/NAME.svg`."""
    for name, mask in PICTURES.items():
        files.append(File.generated(config, f"pictures/{name}.svg", content=draw(mask)))
    return files
