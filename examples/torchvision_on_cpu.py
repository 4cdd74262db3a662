"""Makes `import torchvision` work beside a CPU-only torch.

The torchvision on PyPI is a CUDA build. Beside a CPU-only torch its library of compiled operators silently fails to
load, and the import then fails where torchvision describes two of them: `operator torchvision::nms does not exist`.
Models, data sets and transforms need neither. Declaring the two without an implementation lets the import pass.

    import torchvision_on_cpu  # noqa: F401  before the first import of torchvision
    import torchvision

Where torchvision imports by itself, this does nothing: its own declarations would clash with these.
"""

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

try:
    import torchvision  # noqa: F401
except RuntimeError as error:
    if "operator torchvision::nms does not exist" not in str(error):
        raise
    library = torch.library.Library("torchvision", "DEF")  # the declarations last as long as this object
    for schema in SCHEMAS:
        library.define(schema)
