"""What serving stacks read of an export, beside the files of transformers and the ONNX graphs."""
