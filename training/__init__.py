"""How the models are made: data, pretraining of the mini's parts, and StyleAR's own stage."""
