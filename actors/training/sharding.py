"""A base in parts: each process keeps a part of every weight, and no process but the first ever loads the weights.

Adapters are built on a base whose weights take no memory. Then the layers are sharded with FSDP, and the first process
loads the weights on the CPU and sends each process its part, one weight after the other.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from actors.errors import UserError
from actors.models.source import ModelSource


def weightless(model: ModelSource, dtype: str, model_class: Any, device: torch.device) -> Any:
    """The base with weights of one value each, which its shape repeats.

    Adapters take shape, type and device from a base's weights, not values: on this one they start as on a whole base.
    On the meta device they would lose their own values.
    """
    with init_empty_weights(include_buffers=False):
        base = model_class.from_config(model.config, dtype=getattr(torch, dtype))
    base.tie_weights()  # undone by accelerate
    _replace(base, {each: _hollow(each, device) for each in base.parameters()})
    return base.eval()  # as a base that is loaded


def named_tensors(base: nn.Module) -> dict[Tensor, str]:
    """The weights and buffers of a base by their names. To be asked before adapters rename its layers."""
    return {each: name for named in (base.named_parameters(), base.named_buffers()) for name, each in named}


def shard_base(model: Any, names: Mapping[Tensor, str], load: Callable[[], Any]) -> None:
    """Shard the base of a model that was built on a `weightless` one, and fill it.

    `names` are the base's `named_tensors`, and `load` loads the whole base on the CPU; only the first process calls
    it. A layer's weights are gathered while it computes. Adapters are small and stay whole in all processes, and DDP
    reduces their gradients. So a checkpoint is the same with and without sharding. Every process must call this.
    Raises UserError in the first process if the weights cannot be loaded, or are not those of the config.
    """
    weights = {each: name for each, name in names.items() if isinstance(each, nn.Parameter)}
    buffers = {name: each for each, name in names.items() if each not in weights}
    device = next(iter(weights)).device
    # FSDP takes no weights that repeat a value.
    empty = {each: nn.Parameter(each.to("meta"), requires_grad=each.requires_grad) for each in weights}
    _replace(model, empty)
    origins = {
        name: weights[each]
        for each, bare in empty.items()
        for name, found in model.named_parameters(remove_duplicate=False)
        if found is bare
    }
    adapters = set(model.parameters()) - set(empty.values())
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    layers = model.get_base_model()._no_split_modules or ()
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, ignored_params=adapters)
    fully_shard(model, mesh=mesh, ignored_params=adapters)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(origins))
    whole = load() if torch.distributed.get_rank() == 0 else None
    if whole is not None and {name for name, _ in whole.named_parameters()} != set(origins.values()):
        raise UserError(
            f"model {model.get_base_model().config.name_or_path!r} cannot be sharded: the layers that share weights by "
            "its config have weights of their own in its files; set tie_word_embeddings to false in config.json"
        )
    _fill_weights(model, origins, whole, mesh)
    _fill_buffers(buffers, whole)


def _fill_weights(model: Any, origins: Mapping[str, str], whole: Any, mesh: DeviceMesh) -> None:
    """Give each process its parts of the weights `origins` (name in the model -> name in the base) of `whole`."""
    parts: dict[str, nn.Parameter] = {}
    for name, origin in origins.items():
        if origin in parts:
            continue  # layers share it
        empty = model.get_parameter(name)
        weight = _hollow(empty, mesh.device_type) if whole is None else whole.get_parameter(origin)
        part = distribute_tensor(weight.detach().to(empty.dtype), mesh, empty.placements)  # sends the first process's
        parts[origin] = nn.Parameter(part, requires_grad=empty.requires_grad)
    model.load_state_dict({name: parts[origin] for name, origin in origins.items()}, strict=False, assign=True)


@torch.no_grad()
def _fill_buffers(buffers: Mapping[str, Tensor], whole: Any) -> None:
    for name, buffer in buffers.items():
        if whole is not None:
            buffer.copy_(whole.get_buffer(name))
        torch.distributed.broadcast(buffer, 0)


def _hollow(weight: Tensor, device: torch.device | str) -> nn.Parameter:
    """A weight of the same shape and type that repeats one value."""
    value = torch.zeros((), dtype=weight.dtype, device=device)
    return nn.Parameter(value.expand(weight.shape), requires_grad=weight.requires_grad)


def _replace(model: nn.Module, weights: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Put other weights in place of a model's. Layers that shared one share the other."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if weight in weights:
                setattr(module, name, weights[weight])
