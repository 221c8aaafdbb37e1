"""What is known of pretrained encoders: architectures, kinds of tokenizers, and the files of their folders."""
