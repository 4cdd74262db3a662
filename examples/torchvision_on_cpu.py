"""Makes `import torchvision` work beside a CPU-only torch.

The registry's torchvision is a CUDA build. Beside a CPU-only torch its library of compiled operators fails to load, in
silence, and then its import fails where it describes two of them: `operator torchvision::nms does not exist`. Models,
data sets and transforms need neither, so declaring the two, without an implementation, lets the import pass.

    import torchvision_on_cpu  # noqa: F401  before the first import of torchvision
    import torchvision

Where torchvision imports by itself, this does nothing: the declarations would clash with the real ones, so they are
made only after it has failed for want of them.
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
    library = torch.library.Library("torchvision", "DEF")  # the declarations live as long as this name does
    for schema in SCHEMAS:
        library.define(schema)
