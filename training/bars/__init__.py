"""`evaluate --model mini`: the bundled mini's figures against the bars that they have to reach."""
