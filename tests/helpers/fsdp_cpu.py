"""The command with FSDP2 on CPU processes. Torch slices weights there too.

Accelerate only asks for a GPU before it begins, so it is told that the slicing was wanted."""

from accelerate.state import AcceleratorState, DistributedType

from ftguide.cli import main

usual = AcceleratorState.__init__


def sliced(self, *args, fsdp_plugin=None, **knobs):
    usual(self, *args, fsdp_plugin=fsdp_plugin, **knobs)
    self.fsdp_plugin = fsdp_plugin or getattr(self, "fsdp_plugin", None)
    if self.fsdp_plugin is not None:
        self.distributed_type = DistributedType.FSDP


AcceleratorState.__init__ = sliced
main()
