"""AMD's compute driver (KFD): how ROCm counts GPUs, and what processes hold by it.

Source: Linux, drivers/gpu/drm/amd/amdkfd (kfd_topology.c, kfd_process.c); ROCm documentation,
"GPU isolation techniques", ROCR_VISIBLE_DEVICES.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs

_FOLDER = "sys/class/kfd/kfd"


@attrs.frozen(kw_only=True)
class KfdNode:
    """A GPU as KFD knows it.

    Attributes:
        gpu_id: Its name in the files about processes.
        render_minor: The number of its render node: 128 of ``/dev/dri/renderD128``.
        selector: Its name in ``ROCR_VISIBLE_DEVICES``: a UUID, or its place among all GPUs.
    """

    gpu_id: int
    render_minor: int
    selector: str


def kfd_nodes(root: Path = Path("/")) -> list[KfdNode]:
    """Return all GPUs of the compute driver in its order, integrated ones included. Blocks."""
    folder = root / _FOLDER / "topology/nodes"
    try:
        numbers = sorted(int(each.name) for each in folder.iterdir())
    except (OSError, ValueError):
        return []
    nodes: list[KfdNode] = []
    for number in numbers:
        gpu_id = _number(folder / str(number) / "gpu_id")
        if gpu_id:  # the processor is a node, too
            properties = _properties(folder / str(number) / "properties")
            unique_id = properties.get("unique_id", 0)
            nodes.append(
                KfdNode(
                    gpu_id=gpu_id,
                    render_minor=properties.get("drm_render_minor", 0),
                    selector=f"GPU-{unique_id:016x}" if unique_id else str(len(nodes)),
                )
            )
    return nodes


def held_mib(gpu_id: int, root: Path = Path("/")) -> Iterator[tuple[int, float]]:
    """Yield the processes that compute on a GPU, with MiB of its memory. Blocks."""
    try:
        folders = list((root / _FOLDER / "proc").iterdir())
    except OSError:
        return
    for folder in folders:
        if folder.name.isdecimal():
            yield int(folder.name), _number(folder / f"vram_{gpu_id}") / 2**20


def _properties(path: Path) -> dict[str, int]:
    """Return the lines ``name number`` of a file."""
    try:
        fields = (line.split() for line in path.read_text().splitlines())
        return {each[0]: int(each[1]) for each in fields if len(each) == 2}
    except (OSError, ValueError):
        return {}


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
