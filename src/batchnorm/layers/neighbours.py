"""How a layer meets tools that rebuild, trace or copy modules without knowing it."""

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from batchnorm.core.activation import NONE, Activation
from batchnorm.core.errors import ConversionError
from batchnorm.layers.estimate import BatchThenRunning, Estimate

__all__ = ["Neighbours", "log"]

log: logging.Logger = logging.getLogger("batchnorm")


if TYPE_CHECKING:
    # In each class torch's layer comes after ours: weight, running_mean and the like are its attributes.
    from torch.nn.modules.batchnorm import _BatchNorm as _Base
else:
    _Base = nn.Module


class Neighbours(_Base):
    """Refusals and courtesies, with no part in the computation."""

    activation: Activation
    estimate: Estimate
    update_statistics: bool

    def _choices(self) -> dict[str, Any]:
        """The choices that are not the default, which torch's layer has no place for."""
        choices: dict[str, Any] = {}
        if self.activation != NONE:
            choices["activation"] = str(self.activation)
        if self.estimate != BatchThenRunning():
            choices["estimate"] = self.estimate
        if not self.update_statistics:
            choices["update_statistics"] = False
        return choices

    @property
    def qconfig(self) -> Any:
        """Quantisation's mark. `SyncBatchNorm.convert_sync_batchnorm` asks for it on each layer that it rebuilds.

        It is the one place where a layer can object before its activation or another choice is lost without a word.
        """
        if "qconfig" in self.__dict__:
            return self.__dict__["qconfig"]
        choices = self._choices()
        if choices:
            named = ", ".join(f"{name}={value}" for name, value in choices.items())
            raise ConversionError(
                f"{type(self).__name__}({self.num_features}) cannot be rebuilt as another layer without losing "
                f"{named}. Layers before it may have been converted already: start from a fresh model. Remove the "
                "choice first (for an activation: a module of its own after the layer), or keep this layer out."
            )
        # Absent, as on torch's layers.
        raise AttributeError(f"{type(self).__name__!r} object has no attribute 'qconfig'")

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        self.__dict__["qconfig"] = value

    @qconfig.deleter
    def qconfig(self) -> None:
        del self.__dict__["qconfig"]

    def __dir__(self) -> list[str]:
        # Tools that walk over all names (torch.jit.trace, inspect.getmembers) do not mean to rebuild the layer.
        return [name for name in super().__dir__() if name != "qconfig" or name in self.__dict__]

    def _fx_leaf(self, input: fx.Proxy, residual: Any) -> Any:
        # fx keeps only modules of torch's own namespace whole; traced into, ours would branch on a Proxy.
        arguments = (input,) if residual is None else (input, residual)
        tracer: Any = input.tracer
        return tracer.create_proxy("call_module", tracer.path_of_module(self), arguments, {})

    def __prepare_scriptable__(self) -> nn.Module:
        """Called by `torch.jit.script` before it compiles a module."""
        raise ConversionError(
            f"torch.jit.script cannot compile {type(self).__name__}: its choices are made in Python. Use torch.export "
            "(the program then shows torch's own batch norm), or torch.jit.trace in eval mode."
        )

    def __getstate__(self) -> dict[str, Any]:
        # A copy made inside hold_statistics or defer_statistics is not part of it.
        return {**self.__dict__, "_held": 0, "_pending": None}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        pending: Tensor | None = getattr(self, "_pending", None)
        if pending is not None:
            # Moves with the buffers, but stays in float64; from the meta device there is nothing to take along.
            device = next(self.buffers()).device
            self._pending = (
                torch.zeros_like(pending, device=device) if pending.is_meta else pending.to(device)
            )
        return self
