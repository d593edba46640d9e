"""The devices of a run as a mesh (batch, fsdp), and what lies where on it.

The mesh has devices/fsdp rows and fsdp columns over all processes. A batch is cut along its first
axis over all devices. Leaves of the training state of ``LEAST_SHARDED_BYTES`` and more with two or
more dimensions are cut along their largest axis that the columns divide; all others are whole on
every device (pi0 spec, "Training"). XLA inserts the collectives.

Every process holds a part of each batch and runs the same program; process 0 alone writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH_AXIS = "batch"
FSDP_AXIS = "fsdp"
LEAST_SHARDED_BYTES = 4 << 20

Tree = TypeVar("Tree")


def build_mesh(fsdp_devices: int) -> Mesh:
    """All devices of all processes, process by process; ``fsdp_devices`` divides them."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    grid = np.asarray(devices).reshape(-1, fsdp_devices)
    return Mesh(grid, (BATCH_AXIS, FSDP_AXIS))


def leaf_sharding(mesh: Mesh, shape: tuple[int, ...], dtype: Any) -> NamedSharding:
    """Where an array of the training state lies."""
    chosen = choose_axis(shape, np.dtype(dtype).itemsize, mesh.shape[FSDP_AXIS])
    if chosen is None:
        return whole(mesh)
    return _named(mesh, *(FSDP_AXIS if axis == chosen else None for axis in range(len(shape))))


def choose_axis(shape: tuple[int, ...], itemsize: int, columns: int) -> int | None:
    """The axis along which an array is cut into ``columns`` parts; None when it stays whole."""
    size_bytes = int(np.prod(shape, dtype=np.int64)) * itemsize
    if columns == 1 or len(shape) < 2 or size_bytes < LEAST_SHARDED_BYTES:
        return None
    divisible = [axis for axis, size in enumerate(shape) if size % columns == 0]
    return max(divisible, key=lambda axis: shape[axis], default=None)


def tree_shardings(mesh: Mesh, shapes: Any) -> Any:
    """``leaf_sharding`` of every leaf of ``shapes`` (arrays or ``jax.ShapeDtypeStruct``)."""
    return jax.tree.map(lambda leaf: leaf_sharding(mesh, leaf.shape, leaf.dtype), shapes)


def whole(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return _named(mesh)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices."""
    return _named(mesh, (BATCH_AXIS, FSDP_AXIS))


def _named(mesh: Mesh, *axes: Any) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]


def local_slots(batch_size: int) -> range:
    """The places of a batch that this process loads; together the processes load each once."""
    share = batch_size // jax.process_count()
    return range(jax.process_index() * share, (jax.process_index() + 1) * share)


def place_tree(tree: Tree, shardings: Any) -> Tree:
    """``tree`` (the same on every process) on the devices; the arrays are copies of their own."""
    placed: Tree = jax.tree.map(_place_leaf, tree, shardings)
    return placed


def _place_leaf(leaf: Any, sharding: NamedSharding) -> jax.Array:
    host = np.asarray(leaf)
    return jax.make_array_from_callback(
        host.shape, sharding, lambda index: np.array(host[index], copy=True)
    )


def place_batch(batch: Tree, sharding: NamedSharding) -> Tree:
    """This process's part of a batch, as a part of the whole one on all devices."""
    placed: Tree = jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, leaf),  # type: ignore[no-untyped-call]
        batch,
    )
    return placed


def gather_tree(tree: Tree) -> Tree:
    """The whole of every leaf as a NumPy array, on every process, one leaf after another."""
    gathered: Tree = jax.tree.map(_gather_leaf, tree)
    return gathered


def gather_to_writer(tree: Tree) -> Tree | None:
    """``gather_tree`` on process 0; None on the others, which take part and keep no leaf."""
    if is_writer():
        return gather_tree(tree)
    for leaf in filter(_is_scattered, jax.tree.leaves(tree)):
        _gather_leaf(leaf)
    return None


def _gather_leaf(leaf: Any) -> Any:
    if _is_scattered(leaf):
        return multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _is_scattered(leaf: Any) -> bool:
    """Whether this process cannot see the whole leaf; the same on every process."""
    return isinstance(leaf, jax.Array) and not (
        leaf.is_fully_addressable or leaf.is_fully_replicated
    )


def describe_mesh(mesh: Mesh, tree: Any) -> dict[str, Any]:
    """Processes, devices, and what ``tree`` takes in all and on the fullest device here."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    held: dict[Any, int] = {}
    for leaf in leaves:
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return {
        "processes": jax.process_count(),
        "devices": mesh.size,
        "fsdp_devices": mesh.shape[FSDP_AXIS],
        "state_bytes": sum(leaf.nbytes for leaf in leaves),
        "state_bytes_a_device": max(held.values(), default=0),
    }


def is_writer() -> bool:
    """Whether this process writes the run's files."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """Process 0's ``value``, on every process; all of them must ask."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


@contextlib.contextmanager
def writer_first(what: str) -> Iterator[None]:
    """Process 0 runs the block before the others enter it, so that they find its caches."""
    if not is_writer():
        meet(what)
    yield
    if is_writer():
        meet(what)


def meet(what: str) -> None:
    """Wait until every process is here; ``what`` names the place, the same in all of them.

    On a CPU the first exchange of a group of devices waits for its members for 30 s only, because
    Gloo connects them then; a later one waits longer (75 s seen).
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
