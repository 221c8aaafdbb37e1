"""The model: the pretrained encoder, cached activations of its frozen layers, and the recommender on top."""
