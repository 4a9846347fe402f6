"""The methods by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastclip.adapt.coral import Coral
from fastclip.adapt.subspace import SubspaceAlignment
from fastclip.adapt.transfer import TransferComponents
from fastclip.adapt.transport import Transport
from fastclip.adapt.zero_shot import Prior, Prototypes
from fastclip.heads.method import Method

METHODS: Mapping[str, Callable[[Method], Method]] = {
    "coral": lambda classifier: Coral(classifier=classifier),
    "sa": lambda classifier: SubspaceAlignment(classifier=classifier),
    "tca": lambda classifier: TransferComponents(name="tca", classifier=classifier),
    "jda": lambda classifier: TransferComponents(name="jda", classifier=classifier),
    "bda": lambda classifier: TransferComponents(name="bda", classifier=classifier),
    "ot": lambda classifier: Transport(name="ot", classifier=classifier),
    "ot-entropic": lambda classifier: Transport(name="ot-entropic", classifier=classifier),
    "prior": lambda classifier: Prior(),
    "prototype": lambda classifier: Prototypes(),
}
"""Each takes the classifier that learns on the moved images; the last two need none."""
