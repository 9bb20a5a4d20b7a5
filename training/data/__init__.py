"""The data rooms of the mini model: drawings, their renderings and captions."""
