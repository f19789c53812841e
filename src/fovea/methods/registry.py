"""The union of methods: one line per method."""

from typing import Annotated

from pydantic import Field

from fovea.methods.direct import Direct
from fovea.methods.finetune import Finetune
from fovea.methods.frozen_decoder import FrozenDecoder
from fovea.methods.mix import Mix
from fovea.methods.ssae import SSAE

MethodConfig = Annotated[
    Direct  # a small SAE from scratch on D
    | Finetune  # g, trained further on D
    | SSAE  # a small SAE on what g leaves over
    | Mix  # D and general text together
    | FrozenDecoder,  # control
    Field(discriminator="kind"),
]
