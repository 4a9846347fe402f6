"""All checks, in the order in which they are shown. None loads a library before it runs."""

from __future__ import annotations

from fastclip.doctor import folders, launching, processors, program, resources, weights
from fastclip.doctor.finding import Asked, Check, Finding


def _pillow(asked: Asked) -> list[Finding]:
    from fastclip.doctor.pillow import with_pillow

    return with_pillow()


def _torchvision(asked: Asked) -> list[Finding]:
    from fastclip.doctor.decoders import with_decoder

    return with_decoder("torchvision", "torchvision", "torchvision")


def _dali(asked: Asked) -> list[Finding]:
    from fastclip.doctor.decoders import with_decoder

    return with_decoder("dali", "DALI", "nvidia-dali-cuda130")


CHECKS = (
    Check("Program", "python", program.python),
    Check("Program", "packages", program.packages),
    Check("Program", "libraries", program.libraries),
    Check("Machine", "cores", resources.cores),
    Check("Machine", "memory", resources.memory),
    Check("Machine", "open files", resources.files),
    Check("Machine", "temporary", resources.temporary),
    Check("Machine", "locale", resources.letters),
    Check("What computes", "processor", processors.processor),
    Check("What computes", "driver", processors.driver),
    Check("What computes", "GPU", processors.gpu),
    Check("Decoders", "Pillow", _pillow),
    Check("Decoders", "torchvision", _torchvision),
    Check("Decoders", "DALI", _dali),
    Check("Folders", "store", folders.store),
    Check("Folders", "shards", folders.shards),
    Check("Folders", "weights", weights.here),
    Check("Folders", "given weights", weights.given),
    Check("Processes", "Accelerate", launching.accelerate),
    Check("Processes", "launcher", launching.launcher),
    Check("Processes", "variables", launching.variables),
    Check("Processes", "hub", launching.hub),
)
